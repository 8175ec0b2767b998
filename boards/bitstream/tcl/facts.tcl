# What the stand-in knows of the vendor's IP: parameters, pins, interfaces, address segments.
#
# Names and values are those of block designs that Vivado wrote, in public repositories: Xilinx/PYNQ
# boards/ZCU104/base/base.tcl (2022.1: zynq_ultra_ps_e 3.5, proc_sys_reset 5.0) and
# boards/Pynq-Z2/base/base.tcl (processing_system7 5.5); smartconnect 1.0 as in Xilinx's Kria and
# PYNQ overlays. AMD PG201 (Zynq UltraScale+ processing system), PG082 (processing system 7), PG164
# (processor system reset) and PG247 (SmartConnect) say what the pins are.
#
# parameter NAME VALUES   one that may be set; "set" in VALUES: must be, a board's preset may differ
# pin NAME WAY ROLE ?IF?  WAY in, out or optional (an input that may stay open)
# bus NAME ROLE PROTOCOL BITS CLOCK ?IF?   BITS: a number, or the parameter that says it
# segment NAME BUS BASE BYTES ?IF?
# space NAME BUS ?LOW HIGH?   the addresses that its master can reach
# IF: a parameter that must be 1 for it to be there

ip zynq_ultra_ps_e xilinx.com:ip:zynq_ultra_ps_e:3.5 {
  foreach n {0 1 2} { parameter PSU__USE__M_AXI_GP$n {set 0 1} }
  foreach n {0 1 2} { parameter PSU__MAXIGP${n}__DATA_WIDTH {32 64 128} }
  foreach n {0 1 6} { parameter PSU__USE__S_AXI_GP$n {0 1} }
  foreach n {2 3 4 5} { parameter PSU__USE__S_AXI_GP$n {set 0 1} }
  foreach n {0 1 2 3 4 5 6} { parameter PSU__SAXIGP${n}__DATA_WIDTH {32 64 128} }
  foreach n {0 1 2 3 4 5 6} { parameter PSU__USE_DIFF_RW_CLK_GP$n {0 1} }
  parameter PSU__USE__S_AXI_ACE {0 1}
  parameter PSU__USE__S_AXI_ACP {0 1}
  parameter PSU__USE__IRQ0 {set 0 1}
  parameter PSU__USE__IRQ1 {0 1}
  parameter PSU__USE__FABRIC__RST {set 0 1}
  parameter PSU__NUM_FABRIC_RESETS {set 1 2 3 4}
  foreach n {0 1 2 3} {
    parameter PSU__FPGA_PL${n}_ENABLE {0 1}
    parameter PSU__CRL_APB__PL${n}_REF_CTRL__FREQMHZ number
    parameter PSU__CRL_APB__PL${n}_REF_CTRL__SRCSEL {IOPLL RPLL DPLL}
  }
  must PSU__FPGA_PL0_ENABLE PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ PSU__MAXIGP0__DATA_WIDTH

  pin pl_clk0 out clock PSU__FPGA_PL0_ENABLE
  frequency pl_clk0 PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ
  pin pl_resetn0 out resetn PSU__USE__FABRIC__RST
  pin pl_ps_irq0 in interrupt PSU__USE__IRQ0
  pin pl_ps_irq1 in interrupt PSU__USE__IRQ1
  foreach {gp name} {0 hpm0_fpd 1 hpm1_fpd 2 hpm0_lpd} {
    pin maxi${name}_aclk in clock PSU__USE__M_AXI_GP$gp
    set bus M_AXI_[string toupper $name]
    bus $bus master AXI4 PSU__MAXIGP${gp}__DATA_WIDTH maxi${name}_aclk PSU__USE__M_AXI_GP$gp
  }
  space Data M_AXI_HPM0_FPD 0xA0000000 0xAFFFFFFF
  foreach {gp n} {2 0 3 1 4 2 5 3} {
    pin saxihp${n}_fpd_aclk in clock PSU__USE__S_AXI_GP$gp
    bus S_AXI_HP${n}_FPD slave AXI4 PSU__SAXIGP${gp}__DATA_WIDTH saxihp${n}_fpd_aclk \
      PSU__USE__S_AXI_GP$gp
    segment SAXIGP$gp/HP${n}_DDR_LOW S_AXI_HP${n}_FPD 0 0x80000000 PSU__USE__S_AXI_GP$gp
    segment SAXIGP$gp/HP${n}_LPS_OCM S_AXI_HP${n}_FPD 0xFF000000 0x1000000 PSU__USE__S_AXI_GP$gp
    segment SAXIGP$gp/HP${n}_QSPI S_AXI_HP${n}_FPD 0xC0000000 0x20000000 PSU__USE__S_AXI_GP$gp
    expect PSU__USE__S_AXI_GP$gp PSU__SAXIGP${gp}__DATA_WIDTH
  }
  automation xilinx.com:bd_rule:zynq_ultra_ps_e {apply_board_preset} {}
}

ip processing_system7 xilinx.com:ip:processing_system7:5.5 {
  foreach n {0 1} { parameter PCW_USE_M_AXI_GP$n {set 0 1} }
  foreach n {0 1} { parameter PCW_USE_S_AXI_GP$n {0 1} }
  foreach n {0 1 2 3} {
    parameter PCW_USE_S_AXI_HP$n {set 0 1}
    parameter PCW_S_AXI_HP${n}_DATA_WIDTH {32 64}
    parameter PCW_EN_CLK${n}_PORT {0 1}
    parameter PCW_EN_RST${n}_PORT {0 1}
    parameter PCW_FPGA${n}_PERIPHERAL_FREQMHZ number
    parameter PCW_FCLK${n}_PERIPHERAL_CLKSRC {{IO PLL} {ARM PLL} {DDR PLL}}
  }
  parameter PCW_USE_S_AXI_ACP {0 1}
  parameter PCW_USE_FABRIC_INTERRUPT {set 0 1}
  parameter PCW_IRQ_F2P_INTR {set 0 1}
  parameter PCW_IRQ_F2P_MODE {DIRECT REVERSE}
  must PCW_EN_CLK0_PORT PCW_EN_RST0_PORT PCW_FPGA0_PERIPHERAL_FREQMHZ

  pin FCLK_CLK0 out clock PCW_EN_CLK0_PORT
  frequency FCLK_CLK0 PCW_FPGA0_PERIPHERAL_FREQMHZ
  pin FCLK_RESET0_N out resetn PCW_EN_RST0_PORT
  pin IRQ_F2P in interrupt {PCW_IRQ_F2P_INTR PCW_USE_FABRIC_INTERRUPT}
  foreach n {0 1} {
    pin M_AXI_GP${n}_ACLK in clock PCW_USE_M_AXI_GP$n
    bus M_AXI_GP$n master AXI3 32 M_AXI_GP${n}_ACLK PCW_USE_M_AXI_GP$n
  }
  space Data M_AXI_GP0 0x40000000 0x7FFFFFFF
  foreach n {0 1 2 3} {
    pin S_AXI_HP${n}_ACLK in clock PCW_USE_S_AXI_HP$n
    bus S_AXI_HP$n slave AXI3 PCW_S_AXI_HP${n}_DATA_WIDTH S_AXI_HP${n}_ACLK PCW_USE_S_AXI_HP$n
    segment S_AXI_HP$n/HP${n}_DDR_LOWOCM S_AXI_HP$n 0 0x20000000 PCW_USE_S_AXI_HP$n
    expect PCW_USE_S_AXI_HP$n PCW_S_AXI_HP${n}_DATA_WIDTH
  }
  bus DDR master DDR 0 {}
  bus FIXED_IO master FIXED_IO 0 {}
  automation xilinx.com:bd_rule:processing_system7 {make_external apply_board_preset} {DDR FIXED_IO}
}

ip proc_sys_reset xilinx.com:ip:proc_sys_reset:5.0 {
  parameter C_EXT_RST_WIDTH number
  parameter C_AUX_RST_WIDTH number
  parameter C_AUX_RESET_HIGH {0 1}
  parameter C_NUM_BUS_RST number
  parameter C_NUM_PERP_ARESETN number
  pin slowest_sync_clk in clock
  pin ext_reset_in in anyreset
  pin aux_reset_in optional anyreset
  pin mb_debug_sys_rst optional reset
  pin dcm_locked optional signal
  pin mb_reset out reset
  pin bus_struct_reset out reset
  pin peripheral_reset out reset
  pin interconnect_aresetn out resetn
  pin peripheral_aresetn out resetn
}

ip smartconnect xilinx.com:ip:smartconnect:1.0 {
  parameter NUM_SI {set 1}
  parameter NUM_MI {set 1}
  parameter NUM_CLKS {1}
  parameter HAS_ARESETN {0 1}
  pin aclk in clock
  pin aresetn in resetn
  bus S00_AXI slave any any aclk
  bus M00_AXI master any any aclk
  through S00_AXI M00_AXI
}

# From the files beside this one to a bitstream: vivado -mode batch -source build.tcl
#
# Lines that begin with "MOEVIT" tell moevit what happens. Reports come to reports/, results to
# outputs/. What differs between versions is asked of the tool: versions of IP, board files, the
# implementation flow, strategies, and commands that have come or gone.
set here [file dirname [file normalize [info script]]]
cd $here
source settings.tcl

proc moevit_step {name} { puts "MOEVIT step $name"; flush stdout }
proc moevit_fail {text} { puts "MOEVIT error $text"; flush stdout; exit 3 }

proc moevit_order {version} {
  # 2022.1.2 as a number
  if {![regexp {^(\d+)\.(\d+)} $version - year release]} { return 0 }
  return [expr {$year * 10 + $release}]
}

proc moevit_newest {ip} {
  set found [get_ipdefs -all -filter "NAME == $ip"]
  if {[llength $found] == 0} { moevit_fail "IP $ip: this Vivado has none" }
  return [get_property VLNV [lindex $found end]]
}

proc moevit_wait {runs} {
  # wait_on_runs came with 2021.2; before there was wait_on_run alone.
  if {[llength [info commands wait_on_runs]]} {
    wait_on_runs $runs
  } else {
    foreach run $runs { wait_on_run $run }
  }
}

proc moevit_done {run} { return [expr {[get_property PROGRESS [get_runs $run]] eq "100%"}] }

set version [version -short]
puts "MOEVIT vivado $version"
if {[moevit_order $version] < [moevit_order $moevit(oldest)]} {
  moevit_fail "Vivado $version: too old; expected $moevit(oldest) or newer"
}
if {[moevit_order $version] > [moevit_order $moevit(newest)]} {
  puts "MOEVIT note Vivado $version is newer than $moevit(newest), the last that is known"
}
if {[llength [get_parts -quiet $moevit(part)]] == 0} {
  moevit_fail "part $moevit(part): not installed, or not in this licence"
}

moevit_step project
create_project -force moevit project -part $moevit(part)
set boards [get_board_parts -quiet -latest_file_version $moevit(board_parts)]
if {[llength $boards]} {
  set_property board_part [lindex $boards 0] [current_project]
} else {
  puts "MOEVIT note no board files for $moevit(board): the processor keeps its default settings"
}
set_property ip_repo_paths [file join $here ip] [current_project]
update_ip_catalog -rebuild

moevit_step design
source design.tcl
set bd [get_files $moevit(design).bd]
generate_target all $bd
set wrapper [make_wrapper -files $bd -top]
add_files -norecurse $wrapper
set_property top $moevit(top) [current_fileset]
add_files -fileset constrs_1 -norecurse moevit.xdc
set_property used_in_synthesis false [get_files moevit.xdc]
set_property PROCESSING_ORDER LATE [get_files moevit.xdc]
update_compile_order -fileset sources_1

moevit_step synthesis
launch_runs synth_1 -jobs $moevit(jobs)
moevit_wait synth_1
if {![moevit_done synth_1]} { moevit_fail "synthesis failed, see project/moevit.runs/synth_1" }

moevit_step implementation
# The flow's name has the year of the tool in it.
set flow [get_property FLOW [get_runs impl_1]]
set runs {}
foreach strategy $moevit(strategies) {
  set run impl_[string tolower $strategy]
  create_run $run -parent_run synth_1 -flow $flow
  if {[catch {set_property strategy $strategy [get_runs $run]}]} {
    puts "MOEVIT note strategy $strategy: this Vivado has none"
    delete_runs $run
    continue
  }
  set_property STEPS.PHYS_OPT_DESIGN.IS_ENABLED true [get_runs $run]
  set_property STEPS.POST_ROUTE_PHYS_OPT_DESIGN.IS_ENABLED true [get_runs $run]
  set_property STEPS.POST_ROUTE_PHYS_OPT_DESIGN.ARGS.DIRECTIVE AggressiveExplore [get_runs $run]
  lappend runs $run
}
if {[llength $runs] == 0} { set runs impl_1 }
launch_runs $runs -jobs $moevit(jobs)
moevit_wait $runs

# The best of those that ended: most setup slack, then most hold slack.
set best {}
set found [open outputs/strategies.txt w]
foreach run $runs {
  if {![moevit_done $run]} {
    puts $found "$run failed"
    continue
  }
  set wns [get_property STATS.WNS [get_runs $run]]
  set whs [get_property STATS.WHS [get_runs $run]]
  puts $found "$run $wns $whs"
  if {$best eq {} || $wns > $slack || ($wns == $slack && $whs > $hold)} {
    set best $run
    set slack $wns
    set hold $whs
  }
}
close $found
if {$best eq {}} { moevit_fail "every implementation failed, see project/moevit.runs" }
puts "MOEVIT note best strategy: $best, slack $slack ns"

moevit_step bitstream
launch_runs $best -to_step write_bitstream -jobs $moevit(jobs)
moevit_wait $best
if {![moevit_done $best]} { moevit_fail "no bitstream, see project/moevit.runs/$best" }

moevit_step reports
current_run -implementation [get_runs $best]
open_run $best
report_utilization -file reports/utilization.rpt
report_utilization -hierarchical -file reports/hierarchy.rpt
report_timing_summary -max_paths 200 -report_unconstrained -file reports/timing.rpt
report_power -file reports/power.rpt
report_drc -file reports/drc.rpt
report_methodology -file reports/methodology.rpt
report_clock_interaction -file reports/clocks.rpt

moevit_step results
file copy -force [get_property DIRECTORY [get_runs $best]]/$moevit(top).bit outputs/moevit.bit
# Generated files are in .gen since 2020.2, before that in .srcs.
set handoff [glob -nocomplain project/moevit.*/sources_1/bd/$moevit(design)/hw_handoff/*.hwh]
if {[llength $handoff] == 0} { moevit_fail "no hardware handoff below project" }
file copy -force [lindex $handoff 0] outputs/moevit.hwh
write_hw_platform -fixed -include_bit -force -file outputs/moevit.xsa
moevit_step done

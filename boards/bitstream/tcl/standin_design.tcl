# The block design, addresses and constraints of the stand-in (standin.tcl).

# Block design -------------------------------------------------------------------------------------
array set cells {}
array set driver {}
array set peer {}
set assigned {}
proc get_ipdefs {args} {
  set given [options get_ipdefs $args {-all} {-filter}]
  need get_ipdefs $given -filter
  if {![regexp {^NAME == (\w+)$} [dict get $given -filter] - name]} { standin_fail "get_ipdefs" }
  if {[info exists ::vlnv($name)]} { return ipdef:$name }
}
proc create_bd_design {name} { set ::design $name; lappend ::files $name.bd }
proc create_bd_cell {args} {
  set given [options create_bd_cell $args {} {-type -vlnv}]
  need create_bd_cell $given -type -vlnv
  if {[dict get $given -type] ne "ip"} { standin_fail "create_bd_cell: type" }
  foreach {name id} [array get ::vlnv] {
    if {$id eq [dict get $given -vlnv]} {
      set cell [lindex [dict get $given {}] 0]
      if {[info exists ::cells($cell)]} { standin_fail "cell $cell: is there already" }
      set ::cells($cell) $name
      set ::set($cell) {}
      return cell:$cell
    }
  }
  standin_fail "create_bd_cell: no IP [dict get $given -vlnv]"
}
proc get_bd_cells {name} {
  if {![info exists ::cells($name)]} { standin_fail "no cell $name" }
  return cell:$name
}
proc set_parameter {cell name value} {
  set ip $::cells($cell)
  if {![regexp {^CONFIG\.(.+)$} $name - key] || ![dict exists $::parameters($ip) $key]} {
    standin_fail "unknown parameter $name of $ip"
  }
  set values [dict get $::parameters($ip) $key]
  set fits [expr {$values eq "number" ? [string is double -strict $value] : $value in $values}]
  if {!$fits || $value eq "set"} { standin_fail "$cell: $name is $value; expected $values" }
  dict set ::set($cell) $key $value
}
proc value {cell key} {
  if {[dict exists $::set($cell) $key]} { return [dict get $::set($cell) $key] }
  return {}
}
proc there {cell if} {
  foreach key $if { if {[value $cell $key] ne "1"} { return 0 } }
  return 1
}
proc apply_bd_automation {args} {
  set given [options apply_bd_automation $args {} {-rule -config}]
  need apply_bd_automation $given -rule -config
  set cell [string range [lindex [dict get $given {}] 0] 5 end]
  lassign $::automation($::cells($cell)) rule keys external
  if {[dict get $given -rule] ne $rule} { standin_fail "apply_bd_automation: rule" }
  set ::automated($cell) 1
  foreach {key value} [dict get $given -config] {
    if {$key ni $keys} { standin_fail "apply_bd_automation: unknown $key" }
    if {$key eq "apply_board_preset" && $value ni {0 1}} { standin_fail "board preset: $value" }
    if {$key eq "apply_board_preset" && $value && [dict get $::project board_part] eq {}} {
      standin_fail "board preset: no board"
    }
    if {$key eq "make_external"} {
      foreach bus [split $value ", "] {
        if {$bus eq {}} continue
        if {$bus ni $external} { standin_fail "make_external: $bus" }
        set ::peer($cell/$bus) external
      }
    }
  }
}
proc find {what name} {
  # Fact of a pin or bus CELL/NAME that is there with the present parameters.
  if {![regexp {^([^/]+)/(.+)$} $name - cell member] || ![info exists ::cells($cell)]} {
    standin_fail "no cell of $name"
  }
  upvar #0 $what table
  set ip $::cells($cell)
  if {![dict exists $table($ip) $member]} { standin_fail "no $what $name" }
  set fact [dict get $table($ip) $member]
  if {![there $cell [lindex $fact end]]} { standin_fail "$name: not enabled" }
  return $fact
}
proc get_bd_pins {name} { find pins $name; return $name }
proc get_bd_intf_pins {name} { find buses $name; return $name }
proc connect_bd_net {from args} {
  lassign [find pins $from] way role
  if {$way ne "out"} { standin_fail "$from: drives a net, but is an input" }
  if {[llength $args] == 0} { standin_fail "connect_bd_net: only $from" }
  foreach pin $args {
    lassign [find pins $pin] its_way its_role
    if {$its_way eq "out"} { standin_fail "$pin: is an output, driven by $from" }
    if {[info exists ::driver($pin)]} { standin_fail "$pin: driven by $::driver($pin) and $from" }
    set fits [expr {$role eq $its_role || ($its_role eq "anyreset" && $role in {reset resetn})}]
    if {!$fits} { standin_fail "$pin: is a $its_role, $from a $role" }
    set ::driver($pin) $from
    set ::used($from) 1
  }
}
proc bits {cell fact} {
  set bits [lindex $fact 2]
  return [expr {[string is integer -strict $bits] || $bits eq "any" ? $bits : [value $cell $bits]}]
}
proc connect_bd_intf_net {a b} {
  foreach name [list $a $b] {
    if {[info exists ::peer($name)]} { standin_fail "$name: connected twice" }
  }
  set one [find buses $a]
  set two [find buses $b]
  if {[lindex $one 0] ne "master" || [lindex $two 0] ne "slave"} {
    standin_fail "$a and $b: a [lindex $one 0] and a [lindex $two 0]"
  }
  foreach {what x y} [list protocol [lindex $one 1] [lindex $two 1] \
                      width [bits [lindex [split $a /] 0] $one] [bits [lindex [split $b /] 0] $two]] {
    if {$x ne "any" && $y ne "any" && $x ne $y} { standin_fail "$a and $b: $what $x and $y" }
  }
  set ::peer($a) $b
  set ::peer($b) $a
}
proc get_bd_addr_spaces {name} { return $name }
proc get_bd_addr_segs {name} { return $name }
proc reach {cell bus} {
  # The slave at the end of a master's connection, through what passes on.
  while {[info exists ::peer($cell/$bus)]} {
    lassign [split $::peer($cell/$bus) /] cell bus
    set next [dict filter $::through($::cells($cell)) value $bus]
    if {$next eq {}} { return $cell/$bus }
    set bus [lindex $next 0]
  }
  return {}
}
proc assign_bd_address {args} {
  set given [options assign_bd_address $args {} {-offset -range -target_address_space}]
  need assign_bd_address $given -offset -range -target_address_space
  set space [dict get $given -target_address_space]
  set name [lindex [dict get $given {}] 0]
  regexp {^([^/]+)/(.+)$} $space - cell which
  if {![info exists ::cells($cell)] || ![dict exists $::spaces($::cells($cell)) $which]} {
    standin_fail "no address space $space"
  }
  lassign [dict get $::spaces($::cells($cell)) $which] bus low high
  lassign [find segments $name] target base bytes
  if {[reach $cell $bus] ne "[lindex [split $name /] 0]/$target"} {
    standin_fail "$space does not reach $name"
  }
  set first [expr {[dict get $given -offset]}]
  set size [expr {[dict get $given -range]}]
  set last [expr {$first + $size - 1}]
  if {$size & ($size - 1) || $first % $size} { standin_fail "$name: not aligned to its range" }
  if {$first < $low || $last > $high} { standin_fail "$name: outside what $space reaches" }
  if {$size > $bytes} { standin_fail "$name: $size bytes of $bytes" }
  if {$::own($::cells([lindex [split $name /] 0])) && $size != $bytes} {
    standin_fail "$name: $size bytes, has $bytes"
  }
  if {!$::own($::cells([lindex [split $name /] 0])) && $first != $base} {
    standin_fail "$name: at $first, lies at $base"
  }
  foreach other $::assigned {
    lassign $other its_space its_name its_first its_last
    if {$its_space eq $space && $first <= $its_last && $its_first <= $last} {
      standin_fail "$name and $its_name overlap in $space"
    }
  }
  lappend ::assigned [list $space $name $first $last]
}
proc mhz {pin} {
  # Of a clock output.
  lassign [split $pin /] cell name
  set ip $::cells($cell)
  if {[dict exists $::made($ip) $name]} { return [dict get $::made($ip) $name] }
  return [value $cell [dict get $::frequency($ip) $name]]
}
proc clock_of {cell bus} {
  set clock [lindex [dict get $::buses($::cells($cell)) $bus] 3]
  return [expr {$clock eq {} ? {} : $::driver($cell/$clock)}]
}
proc validate_bd_design {} {
  foreach cell [lsort [array names ::cells]] {
    set ip $::cells($cell)
    if {$::automation($ip) ne {} && ![info exists ::automated($cell)]} {
      standin_fail "$cell: no automation, so no board's preset"
    }
    dict for {key values} $::parameters($ip) {
      set needed [expr {"set" in $values || $key in $::must($ip)}]
      if {[dict exists $::expect($ip) $key]} {
        set needed [expr {[value $cell [dict get $::expect($ip) $key]] eq "1"}]
      }
      if {$needed && [value $cell $key] eq {}} { standin_fail "$cell: $key is not set" }
    }
    dict for {name fact} $::pins($ip) {
      lassign $fact way role if
      if {![there $cell $if]} continue
      if {$way eq "in" && ![info exists ::driver($cell/$name)]} {
        standin_fail "$cell/$name: not connected"
      }
      if {$way eq "out" && $::own($ip) && ![info exists ::used($cell/$name)]} {
        standin_fail "$cell/$name: connected to nothing"
      }
    }
    dict for {name fact} $::buses($ip) {
      if {[there $cell [lindex $fact end]] && ![info exists ::peer($cell/$name)]} {
        standin_fail "$cell/$name: not connected"
      }
    }
    dict for {name wanted} $::wants($ip) {
      set found [mhz $::driver($cell/$name)]
      if {$found != $wanted} { standin_fail "$cell/$name: $found MHz, expected $wanted" }
    }
  }
  foreach name [array names ::peer] {
    if {$::peer($name) eq "external"} continue
    lassign [split $name /] cell bus
    lassign [split $::peer($name) /] other its_bus
    if {[clock_of $cell $bus] ne [clock_of $other $its_bus]} {
      standin_fail "$name and $::peer($name): different clocks"
    }
  }
  # The reset of what runs beside an MMCM waits until it has locked.
  foreach cell [array names ::cells] {
    if {$::cells($cell) eq "proc_sys_reset" && [info exists ::driver($cell/slowest_sync_clk)]} {
      set maker [lindex [split $::driver($cell/slowest_sync_clk) /] 0]
      set locked [expr {[info exists ::driver($cell/dcm_locked)] ? $::driver($cell/dcm_locked) : {}}]
      if {$::own($::cells($maker)) && $locked ne "$maker/locked"} {
        standin_fail "$cell: does not wait for $maker/locked"
      }
    }
  }
  foreach cell [array names ::cells] {
    dict for {name fact} $::spaces($::cells($cell)) {
      if {[lsearch -index 0 $::assigned $cell/$name] < 0} { standin_fail "$cell/$name: no address" }
    }
    if {!$::own($::cells($cell))} continue
    dict for {name fact} $::segments($::cells($cell)) {
      if {[lsearch -index 1 $::assigned $cell/$name] < 0} { standin_fail "$cell/$name: no address" }
    }
  }
  set ::validated 1
}
proc save_bd_design {} {
  if {![info exists ::validated]} { standin_fail "save_bd_design: the design is not validated" }
  set ::saved 1
}

# Constraints --------------------------------------------------------------------------------------
proc get_pins {args} {
  set given [options get_pins $args {-hierarchical} {-filter}]
  need get_pins $given -filter -hierarchical
  if {![regexp {^NAME =~ \*/(\w+)/inst/(\w+)/O$} [dict get $given -filter] - cell instance]
      || ![info exists ::cells($cell)] || $instance ni $::instances($::cells($cell))} {
    standin_fail "get_pins: nothing matches [dict get $given -filter]"
  }
  return pin:$cell/$instance
}
proc get_nets {args} {
  set given [options get_nets $args {} {-of_objects}]
  need get_nets $given -of_objects
  return net:[string range [dict get $given -of_objects] 4 end]
}
proc standin_constraints {} {
  array unset ::groups
  array set ::groups {}
  foreach file $::files { if {[file extension $file] eq ".xdc"} { uplevel #0 [list source $file] } }
  foreach cell [array names ::cells] {
    foreach instance $::instances($::cells($cell)) {
      set times 0
      foreach name [array names ::groups] {
        foreach member $::groups($name) { incr times [expr {$member eq "$cell/$instance"}] }
      }
      if {$times != 1} { standin_fail "$cell/$instance: in $times clock delay groups" }
    }
  }
  if {[array size ::groups] > 1} { standin_fail "several clock delay groups" }
}

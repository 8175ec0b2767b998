# A stand-in for Vivado that runs a build's Tcl in plain tclsh and checks the block design.
#
#   tclsh standin.tcl FACTS ... -- build.tcl
#
# It knows the commands, options, properties, IP, pins and parameters that moevit uses and fails on
# any other: with one line on standard error that begins with "STANDIN", and status 4. FACTS are
# files in the form of facts.tcl; a file may replace the procedures under "What a test may replace".

proc standin_fail {text} { puts stderr "STANDIN $text"; exit 4 }
proc unknown {args} { standin_fail "unknown command [lindex $args 0]" }

# Facts ------------------------------------------------------------------------------------------
array set vlnv {}
foreach kind {parameters pins buses segments spaces must expect through frequency automation own
              wants instances made} {
  array set $kind {}
}
proc ip {name id body} {
  set ::vlnv($name) $id
  set ::current $name
  foreach kind {parameters pins buses segments spaces must expect through frequency automation
                wants instances made} {
    set ::${kind}($name) {}
  }
  set ::own($name) 0
  uplevel #0 $body
}
proc parameter {name values} { dict set ::parameters($::current) $name $values }
proc must {args} { lappend ::must($::current) {*}$args }
proc pin {name way role {if {}}} { dict set ::pins($::current) $name [list $way $role $if] }
proc bus {name role protocol bits clock {if {}}} {
  dict set ::buses($::current) $name [list $role $protocol $bits $clock $if]
}
proc segment {name bus base bytes {if {}}} {
  dict set ::segments($::current) $name [list $bus $base $bytes $if]
}
proc space {name bus {low 0} {high 0xFFFFFFFF}} {
  dict set ::spaces($::current) $name [list $bus $low $high]
}
proc expect {if parameter} { dict set ::expect($::current) $parameter $if }
proc through {from to} { dict set ::through($::current) $to $from }
proc frequency {pin parameter} { dict set ::frequency($::current) $pin $parameter }
proc automation {rule keys external} { set ::automation($::current) [list $rule $keys $external] }
# Of IP of our own: every pin must be connected, clocks run at these MHz, instances are inside.
proc ours {} { set ::own($::current) 1 }
proc wants {pin mhz} { dict set ::wants($::current) $pin $mhz }
proc makes {pin mhz} { dict set ::made($::current) $pin $mhz }
proc inside {args} { lappend ::instances($::current) {*}$args }

# What a test may replace --------------------------------------------------------------------------
set standin(version) 2023.2
set standin(parts) *
set standin(board_parts) {}
set standin(strategies) *
proc standin_slack {run} { return {0.050 0.010} }
proc standin_progress {run} { return 100% }
proc standin_report {kind file} { standin_write $file "report of $kind\n" }
proc standin_bitstream {file} { standin_write $file "no bitstream\n" }
proc standin_handoff {file} { standin_write $file "<EDKSYSTEM/>\n" }
proc standin_platform {file} { standin_write $file "no platform\n" }
proc standin_write {file text} {
  file mkdir [file dirname $file]
  set handle [open $file w]
  puts -nonewline $handle $text
  close $handle
}

# Options ------------------------------------------------------------------------------------------
proc options {command words flags values} {
  # The options as a dictionary and the other words under {}.
  set found [dict create {} {}]
  for {set i 0} {$i < [llength $words]} {incr i} {
    set word [lindex $words $i]
    if {$word in $flags} {
      dict set found $word 1
    } elseif {$word in $values} {
      incr i
      if {$i >= [llength $words]} { standin_fail "$command: $word without a value" }
      dict set found $word [lindex $words $i]
    } elseif {[regexp {^-[a-z]} $word]} {
      standin_fail "$command: unknown option $word"
    } else {
      dict lappend found {} $word
    }
  }
  return $found
}
proc need {command given args} {
  foreach option $args {
    if {![dict exists $given $option]} { standin_fail "$command: $option is missing" }
  }
}

# Project ------------------------------------------------------------------------------------------
set project {}
set files {}
array set launched {}
proc version {args} { options version $args {-short} {}; return $::standin(version) }
proc get_parts {args} {
  set name [lindex [dict get [options get_parts $args {-quiet} {}] {}] 0]
  if {[string match $::standin(parts) $name]} { return $name }
}
proc create_project {args} {
  set given [options create_project $args {-force} {-part}]
  need create_project $given -part
  set ::project [dict create name [lindex [dict get $given {}] 0] board_part {}]
  file mkdir [lindex [dict get $given {}] 1]
  set ::launched(impl_1) {parent synth_1}
  set ::launched(synth_1) {parent {}}
}
proc current_project {} {
  if {$::project eq {}} { standin_fail "no project" }
  return project
}
proc get_board_parts {args} {
  set given [options get_board_parts $args {-quiet -latest_file_version} {}]
  return [lsearch -all -inline -glob $::standin(board_parts) [lindex [dict get $given {}] 0]]
}
proc update_ip_catalog {args} { options update_ip_catalog $args {-rebuild} {} }
proc update_compile_order {args} { options update_compile_order $args {} {-fileset} }
proc current_fileset {} { return sources_1 }
proc get_files {args} {
  set name [lindex [dict get [options get_files $args {-quiet} {}] {}] 0]
  foreach file $::files { if {[file tail $file] eq [file tail $name]} { return file:$file } }
  standin_fail "get_files: no file $name"
}
proc add_files {args} {
  set given [options add_files $args {-norecurse} {-fileset}]
  set file [lindex [dict get $given {}] 0]
  if {![file exists $file]} { standin_fail "add_files: no file $file" }
  lappend ::files $file
}
proc generate_target {args} {
  if {![info exists ::saved]} { standin_fail "generate_target: the design is not saved" }
  standin_handoff project/moevit.gen/sources_1/bd/$::design/hw_handoff/$::design.hwh
}
proc make_wrapper {args} {
  set given [options make_wrapper $args {-top -import} {-files}]
  need make_wrapper $given -files -top
  set file project/moevit.gen/sources_1/bd/$::design/hdl/${::design}_wrapper.v
  standin_write $file "module ${::design}_wrapper; endmodule\n"
  return $file
}

# Runs ---------------------------------------------------------------------------------------------
proc get_runs {name} {
  if {![info exists ::launched($name)]} { standin_fail "get_runs: no run $name" }
  return run:$name
}
proc create_run {args} {
  set given [options create_run $args {} {-parent_run -flow}]
  need create_run $given -parent_run -flow
  get_runs [dict get $given -parent_run]
  set ::launched([lindex [dict get $given {}] 0]) [list parent [dict get $given -parent_run]]
}
proc delete_runs {name} { get_runs $name; unset ::launched($name) }
proc launch_runs {args} {
  set given [options launch_runs $args {} {-jobs -to_step}]
  foreach name [lindex [dict get $given {}] 0] {
    get_runs $name
    if {[dict get $::launched($name) parent] ne {}} { standin_constraints }
    dict set ::launched($name) launched 1
    if {[dict exists $given -to_step]} {
      if {[dict get $given -to_step] ne "write_bitstream"} { standin_fail "launch_runs: step" }
      standin_bitstream project/moevit.runs/$name/$::top.bit
    }
  }
}
proc wait_on_run {name} {
  get_runs $name
  if {![dict exists $::launched($name) launched]} { standin_fail "wait_on_run: $name is not launched" }
}
proc wait_on_runs {names} { foreach name $names { wait_on_run $name } }
proc current_run {args} { options current_run $args {-implementation} {} }
proc open_run {name} { wait_on_run $name; set ::opened $name }
proc current_report {kind words flags values} {
  if {![info exists ::opened]} { standin_fail "$kind: no design is open" }
  set given [options $kind $words $flags [concat -file $values]]
  need $kind $given -file
  standin_report $kind [dict get $given -file]
}
proc report_utilization {args} {
  set kind [expr {"-hierarchical" in $args ? "report_hierarchy" : "report_utilization"}]
  current_report $kind $args {-hierarchical} {}
}
proc report_timing_summary {args} {
  current_report report_timing_summary $args {-report_unconstrained} {-max_paths}
}
foreach name {report_power report_drc report_methodology report_clock_interaction} {
  proc $name {args} "current_report $name \$args {} {}"
}
proc write_hw_platform {args} {
  set given [options write_hw_platform $args {-fixed -include_bit -force} {-file}]
  need write_hw_platform $given -file -include_bit
  standin_platform [dict get $given -file]
}

# Properties ---------------------------------------------------------------------------------------
set known_properties {
  project {board_part ip_repo_paths} sources_1 {top} file {used_in_synthesis PROCESSING_ORDER}
  run {strategy STEPS.PHYS_OPT_DESIGN.IS_ENABLED STEPS.POST_ROUTE_PHYS_OPT_DESIGN.IS_ENABLED
       STEPS.POST_ROUTE_PHYS_OPT_DESIGN.ARGS.DIRECTIVE} net {CLOCK_DELAY_GROUP}
}
proc set_property {args} {
  if {[lindex $args 0] eq "-dict"} {
    lassign $args - pairs object
    if {[llength $args] != 3 || [llength $pairs] % 2} { standin_fail "set_property: not in pairs" }
  } else {
    if {[llength $args] != 3} { standin_fail "set_property: takes a name, a value, an object" }
    set pairs [lrange $args 0 1]
    set object [lindex $args 2]
  }
  regexp {^(\w+):?(.*)$} $object - kind which
  foreach {name value} $pairs {
    if {$kind eq "cell"} {
      set_parameter $which $name $value
      continue
    }
    if {![dict exists $::known_properties $kind] || $name ni [dict get $::known_properties $kind]} {
      standin_fail "set_property: unknown property $name of $kind"
    }
    if {$name eq "top"} { set ::top $value }
    if {$name eq "board_part"} { dict set ::project board_part $value }
    if {$name eq "strategy" && ![string match $::standin(strategies) $value]} {
      error "strategy $value"
    }
    if {$name eq "CLOCK_DELAY_GROUP"} { lappend ::groups($value) $which }
  }
}
proc get_property {name object} {
  regexp {^(\w+):?(.*)$} $object - kind which
  switch -glob $kind/[string tolower $name] {
    ipdef/vlnv { return $::vlnv($which) }
    project/board_part { return [dict get $::project board_part] }
    run/flow { return "Vivado Implementation [string range $::standin(version) 0 3]" }
    run/progress { return [standin_progress $which] }
    run/stats.wns { return [lindex [standin_slack $which] 0] }
    run/stats.whs { return [lindex [standin_slack $which] 1] }
    run/directory { return project/moevit.runs/$which }
  }
  standin_fail "get_property: unknown property $name of $kind"
}

source [file join [file dirname [info script]] standin_design.tcl]

# Run ----------------------------------------------------------------------------------------------
set split [lsearch -exact $argv --]
if {$split < 0} { standin_fail "no script" }
foreach file [lrange $argv 0 $split-1] { source $file }
foreach name {ip parameter must pin bus segment space expect through frequency automation ours
              wants makes inside} {
  rename $name {}
}
source [lindex $argv $split+1]
puts "STANDIN ok"

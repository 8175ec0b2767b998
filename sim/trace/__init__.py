"""What every engine, port and unit does, cycle by cycle, recorded from the RTL."""

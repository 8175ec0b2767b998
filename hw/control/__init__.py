"""Control: the AXI4-Lite slave, the sequencer and the semaphores."""

"""From a configuration to a bitstream: inputs for Vivado, the run, its reports, the bundle.

| module | what |
|---|---|
| :mod:`.rtl` | Verilog of the accelerator and the two modules around it |
| :mod:`.ipxact` | ``component.xml`` of the packaged IP |
| :mod:`.design` | Tcl of the block design, constraints, settings |
| :mod:`.overlay` | device-tree overlay |
| :mod:`.inputs` | all of it in a folder |
| :mod:`.vivado` | find the tool, run it, stop it |
| :mod:`.reports` | read utilisation, timing, power and DRC reports |
| :mod:`.judge` | compare with the estimate, refuse what missed its timing |
| :mod:`.bundle` | what a board gets |
| :mod:`.check` | the same Tcl in plain ``tclsh``, against a stand-in for Vivado |
"""

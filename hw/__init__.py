"""The accelerator in Amaranth: configuration, instruction set and gateware."""

"""The instruction interpreter, the verilated accelerator and their benches."""

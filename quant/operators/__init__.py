"""The integer reference of every operator, with its parameters and tables."""

"""The cycle model of a program."""

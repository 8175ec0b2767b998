"""One module for each command, with a function `command` that typer reads; see cli/registry.py."""

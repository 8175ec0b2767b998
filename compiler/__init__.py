"""From a quantised model to a program: instructions, memory plan and weight streams."""

from .driver import compile_network
from .program import Program

__all__ = ["Program", "compile_network"]

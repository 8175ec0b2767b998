"""From a quantised model to a program: instructions, memory plan and weight streams."""

from .driver import check_fit, compile_network
from .program import Program

__all__ = ["Program", "check_fit", "compile_network"]

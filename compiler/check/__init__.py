"""A proof for every program, from its instructions and the instruction set alone.

Nothing here knows how programs are made: no pass of the compiler is used, and none may use more of
this package than :func:`prove` and :func:`verify`.
"""

from .findings import EntryReport, Finding, Report, UnprovenError
from .prove import prove, verify

__all__ = ["EntryReport", "Finding", "Report", "UnprovenError", "prove", "verify"]

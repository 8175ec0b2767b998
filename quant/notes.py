"""What people should know although nothing failed: an assumption, a thing that was passed over."""

import warnings

__all__ = ["Note", "note"]


class Note(UserWarning):
    """A warning in one line. `moevit` prints it as ``moevit: note: ...``."""


def note(text: str) -> None:
    """Warns of ``text``, as of the caller's caller."""
    warnings.warn(text, Note, stacklevel=3)

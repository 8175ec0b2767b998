"""Where tables go. What they hold is plain text: brackets, colons and dollars stay as they are."""

from rich.console import Console

__all__ = ["plain_console"]


def plain_console(*, stderr: bool = False, width: int | None = None) -> Console:
    """A console on standard output that takes no word for markup or for the name of an emoji.

    `width` is that of a table that does not go to a terminal; COLUMNS or 80 if None.
    """
    made = Console(stderr=stderr, markup=False, emoji=False)
    if width is not None and not made.is_terminal:
        made = Console(stderr=stderr, markup=False, emoji=False, width=width)
    return made

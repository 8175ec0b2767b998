"""The entry point of `moevit`."""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from .errors import boundary
from .registry import LazyGroup

__all__ = ["main"]


def _show_version(wanted: bool) -> None:
    if wanted:
        from moevit.version import about  # git and the models' files, only when asked

        typer.echo(about())
        raise typer.Exit


def _moevit(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_show_version,
            is_eager=True,
            help="Print the version, its commit and the shipped models' hashes, and stop.",
        ),
    ] = False,
) -> None:
    """Multi-task mixture-of-experts vision transformers on an accelerator in Amaranth.

    Every command has --help. Errors go to standard error in one line; the exit status is 2 for a
    mistake in what was given and 1 for a fault of moevit (MOEVIT_TRACEBACK=1 shows where).
    """


def _app() -> typer.Typer:
    app = typer.Typer(
        name="moevit",
        cls=LazyGroup,
        no_args_is_help=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    app.callback()(_moevit)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs `moevit` with `arguments`, those of the process if None, and returns its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = typer.main.get_command(_app())
    return boundary(
        lambda: command.main(args=words or ["--help"], prog_name="moevit", standalone_mode=False)
    )


if __name__ == "__main__":
    sys.exit(main())

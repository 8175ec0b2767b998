"""`moevit deploy`."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from moevit.boards import deploy
from moevit.boards.driver.bundle import Bundle
from moevit.boards.driver.session import TRANSPORTS

from ..errors import CheckFailedError, UserError
from ..progress import progress

__all__ = ["command"]

Host = Annotated[str, typer.Argument(metavar="HOST", help="As ssh takes it: [user@]host.")]
From = Annotated[
    Path, typer.Option("--bundle", metavar="DIR", help="The bundle, of `moevit build`.")
]
Folder = Annotated[
    str, typer.Option(metavar="DIR", help="Where it goes on the host, from the user's home.")
]
Ssh = Annotated[
    str, typer.Option(metavar="COMMAND", help="ssh with options, such as 'ssh -p 2222 -i key'.")
]
Python = Annotated[
    str, typer.Option(metavar="PATH", help="Python on the host: 3.10 or newer, with NumPy.")
]
Transport = Annotated[
    str, typer.Option(metavar="NAME", help=f"On the host: {', '.join(TRANSPORTS)}.")
]
Root = Annotated[bool, typer.Option("--sudo", help="Run the self-test by sudo -n.")]
Frames = Annotated[
    int, typer.Option(metavar="N", min=0, help="Frames to measure frames a second with.")
]
NoTest = Annotated[bool, typer.Option("--no-self-test", help="Only copy.")]


def command(
    host: Host,
    bundle: From = Path("build/bundle"),
    folder: Folder = "moevit",
    ssh: Ssh = "ssh",
    python: Python = "python3",
    transport: Transport = "auto",
    sudo: Root = False,
    frames: Frames = 100,
    no_self_test: NoTest = False,
) -> None:
    """Copy a bundle to a board over ssh, and run its self-test there.

    The folder on the board appears whole or not at all. The self-test compares every golden case of
    the bundle, bit for bit, and measures frames a second with transfers, by the wall clock, next to
    cycles. The exit status is 1 if an integer differs.
    """
    try:
        words = shlex.split(ssh)
    except ValueError as error:
        raise UserError(f"--ssh: {error}") from None
    if not words:
        raise UserError("--ssh: is empty; expected a command")
    if not folder.strip("/. "):
        raise UserError(f"--folder: {folder!r} is no folder for a bundle")
    if host.startswith("-"):
        raise UserError(f"HOST: {host!r} is no host")
    with progress("moevit deploy") as report:
        report("checking the bundle", 0.0)
        found = Bundle.read(bundle)
        total = deploy.size(found)

        def on_bytes(count: int) -> None:
            report(f"copying to {host}", min(count / total, 0.99))

        deploy.copy(found, host, folder, ssh=words, on_bytes=on_bytes)
    typer.echo(f"{host}:{folder}: {len(found.files)} files, {total:,} bytes")
    if no_self_test:
        return
    if not deploy.self_test(
        host,
        folder,
        ssh=words,
        python=python,
        transport=transport,
        frames=frames,
        root=sudo,
        say=typer.echo,
    ):
        raise CheckFailedError(f"{host}: the self-test found integers that are not bit exact")

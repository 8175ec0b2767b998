"""`moevit serve`."""

import contextlib
import secrets
import socket
from pathlib import Path
from typing import Annotated, Any

import typer

from moevit.errors import UserError
from moevit.sources import image_source

from ..options import (
    BACKENDS,
    DEFAULT_SIZE,
    CalibrationFiles,
    Config,
    Data,
    Experts,
    Method,
    Model,
    Preset,
    Root,
    Size,
    check_backend,
)
from ..progress import progress
from ..workload import hardware, open_program, open_workload

__all__ = ["command"]

_LOCAL = "127.0.0.1"
_NAMES = ("127.0.0.1", "localhost", "[::1]")
_SERVED = ("golden", "sim")

Host = Annotated[
    str, typer.Option(metavar="ADDRESS", help="Address to listen at; 0.0.0.0: all. Needs a token.")
]
Port = Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="0: any that is free.")]
Backends = Annotated[
    list[str] | None,
    typer.Option(
        "--backend",
        metavar="NAME",
        help=f"One that viewers may choose, again for more: {', '.join(BACKENDS)}.",
        show_default=" ".join(_SERVED),
    ),
]
Token = Annotated[
    str | None,
    typer.Option(
        envvar="MOEVIT_TOKEN",
        metavar="TEXT",
        help="What clients must know; made up where others than this machine may connect.",
        show_default=False,
    ),
]
Allowed = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-host",
        metavar="NAME",
        help="Another name of this machine in browsers' address lines.",
        show_default=False,
    ),
]
File = Annotated[
    Path | None,
    typer.Option(
        "--program", metavar="FILE", help="Program of `moevit compile`.", show_default=False
    ),
]


def command(
    host: Host = _LOCAL,
    port: Port = 8080,
    backend: Backends = None,
    token: Token = None,
    allow_host: Allowed = None,
    size: Size = DEFAULT_SIZE,
    preset: Preset = None,
    config: Config = None,
    model: Model = None,
    experts: Experts = None,
    method: Method = None,
    data: Data = "scenes",
    root: Root = None,
    calibration: CalibrationFiles = None,
    program: File = None,
) -> None:
    """Serve a page and a JSON API: drop a picture or a video, or turn the camera on.

    All tasks side by side, the expert that each patch went to, and what the board would do. The
    API is described by /api/v1/openapi.json; `moevit run --backend remote --url URL` is a client.
    Ctrl-C stops it.
    """
    try:
        import uvicorn

        from moevit.serve.app import application
        from moevit.serve.guard import Guard
        from moevit.serve.service import Service
    except ImportError as error:
        raise UserError(
            f"serve: needs the package {error.name}: pip install 'moevit[serve]'"
        ) from None
    backends = list(dict.fromkeys(backend or _SERVED))
    for name in backends:
        check_backend(name, [known for known in BACKENDS if known != "remote"])
    local = host in ("localhost", "::1") or host.startswith("127.")
    if not local and token is None:
        token = secrets.token_urlsafe(16)
    with _listen(host, port) as listening:
        with progress("moevit serve") as report:
            source = image_source(data, root, calibration)
            about: dict[str, Any] = {
                "experts": experts,
                "method": method,
                "source": source,
                "report": report,
            }
            if program is None:
                chosen = hardware(preset, config)
                workload = open_workload(chosen, size=size, model=model, **about)
            else:
                first = backends[0]
                workload = open_program(program, size=size, model=model, backend=first, **about)
            service = Service(workload, backends, report=report)
        number = listening.getsockname()[1]
        names = {*_NAMES, host.lower(), *(name.lower() for name in allow_host or ())}
        hosts = {f"{name}:{number}" for name in names} | {*(allow_host or ())}
        guarded = Guard(application(service), hosts=hosts if local else None, token=token)
        settings = uvicorn.Config(
            guarded, log_level="warning", timeout_graceful_shutdown=2, lifespan="off"
        )
        shown = f"http://{host}:{number}/" + (f"#token={token}" if token else "")
        typer.echo(f"serving {workload.name} at {shown}\nCtrl-C stops")
        with service, contextlib.suppress(KeyboardInterrupt):  # which uvicorn passes on
            uvicorn.Server(settings).run(sockets=[listening])
        typer.echo("stopped")


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens, so that a port in use is said before any work."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, kind)
    except OSError as error:
        raise UserError(f"--host: {host} is no address of this machine: {error.strerror}") from None
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(64)
    except OSError as error:
        made.close()
        raise UserError(
            f"--port: {host}:{port} cannot be listened at: {error.strerror}; "
            "expected a free port, --port 0 takes any"
        ) from None
    return made

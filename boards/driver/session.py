"""From a bundle to an accelerator that is ready: which transport, and do they belong together."""

from __future__ import annotations

import importlib.util

from .bundle import Bundle
from .device import Accelerator
from .errors import IdentityError
from .transport import Transport

__all__ = ["TRANSPORTS", "open_accelerator", "open_transport"]

TRANSPORTS = ("auto", "pynq", "linux", "sim:SOCKET")
"""What :func:`open_transport` knows. ``auto``: PYNQ where it is installed, else plain Linux."""


def open_transport(
    name: str = "auto", bundle: Bundle | None = None, *, poll: bool = False
) -> Transport:
    """The transport called ``name``; ``poll``: without its interrupt.

    Raises ``ValueError`` for an unknown one, and what the transport raises.
    """
    transport: Transport
    if name == "auto":
        name = "pynq" if importlib.util.find_spec("pynq") else "linux"
    if name.startswith("sim:"):
        from .simulated import Simulated

        transport = Simulated(name[len("sim:") :])
    elif name == "pynq":
        from .pynq import Pynq

        if bundle is None:
            raise ValueError("The transport pynq needs a bundle, for its hardware handoff")
        transport = Pynq(bundle)
    elif name == "linux":
        from .linux import Linux

        transport = Linux(bundle)
    else:
        raise ValueError(f"Unknown transport {name!r}; expected one of {', '.join(TRANSPORTS)}")
    if poll:
        transport.interrupt = False
    return transport


def open_accelerator(
    bundle: Bundle, name: str = "auto", *, time_out: float = 2.0, poll: bool = False
) -> Accelerator:
    """The accelerator of a bundle. ``IdentityError`` where the board holds another build."""
    about = bundle.manifest
    transport = open_transport(name, bundle, poll=poll)
    accelerator = Accelerator(
        transport, time_out=time_out, reach=about.memory_base + about.memory_bytes
    )
    found, wanted = f"{accelerator.identity.config_hash:016x}", about.config_hash
    if found != wanted:
        accelerator.close()
        raise IdentityError(
            f"the bitstream on {transport.name} is configuration {found}, the bundle "
            f"{bundle.root} is {about.config_name} {wanted}; load the bundle's bitstream"
        )
    return accelerator

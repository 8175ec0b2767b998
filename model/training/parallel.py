"""Training on several processes: who is who, and sums over all of them.

Either ``torchrun`` starts the processes, on one machine or several, one for each GPU or for a part
of a CPU, and tells them who they are in the environment; or
:func:`moevit.model.training.train.train` starts its own workers on the CPU of one machine.

Gradients are added up in one vector of fixed order, once a step. PyTorch's DistributedDataParallel
would overlap the exchange with the backward pass, but arranges its buckets after the first step of
each run, so that a run that was resumed would add in another order than one that was not.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed

__all__ = ["Member", "add_up", "joined"]

# A worker waits for the first while that validates; far longer than any validation.
_PATIENCE = timedelta(hours=12)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One of ``size`` processes, ``rank`` from 0, the ``local``-th on its machine."""

    rank: int = 0
    size: int = 1
    local: int = 0
    meeting: str = "env://"

    @classmethod
    def from_environment(cls) -> Member | None:
        """Who ``torchrun`` says that this process is; None if it was not started by it."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        if not all(name in os.environ for name in (*names, "MASTER_ADDR")):
            return None
        rank, size, local = (int(os.environ[name]) for name in names)
        return cls(rank=rank, size=size, local=local)

    def device(self, wanted: str) -> torch.device:
        """The torch device for ``auto``, or a name; each process of a machine its own GPU."""
        if wanted == "auto":
            wanted = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            device = torch.device(wanted)
        except RuntimeError:
            raise ValueError(f"Device must be auto, cpu or cuda, not {wanted!r}") from None
        if device.type != "cuda":
            return device
        if torch.cuda.device_count() == 0:
            raise ValueError(f"Device {wanted} was asked for, but torch sees no CUDA device")
        if self.size > 1 and str(device) == "cuda":
            if self.local >= torch.cuda.device_count():
                raise ValueError(
                    f"Process {self.local} of this machine needs a GPU of its own; there are "
                    f"{torch.cuda.device_count()}"
                )
            return torch.device("cuda", self.local)
        return device


@contextmanager
def joined(member: Member, device: torch.device) -> Iterator[None]:
    """All processes of a training, connected while the block runs."""
    if member.size == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=member.meeting,
        rank=member.rank,
        world_size=member.size,
        timeout=_PATIENCE,
    )
    try:
        yield
    finally:
        distributed.destroy_process_group()


def add_up(values: Tensor) -> Tensor:
    """The sum of all processes' ``values``, in place; ``values`` itself without others."""
    if distributed.is_initialized():
        distributed.all_reduce(values)
    return values

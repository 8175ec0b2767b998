"""Which signals of the accelerator are recorded, by their places in it (:mod:`moevit.hw.watch`)."""

from __future__ import annotations

from moevit.hw.config import AcceleratorConfig
from moevit.hw.control.sequencer import QUEUES
from moevit.hw.transfer.load import sides

__all__ = ["EVENTS", "LEVELS", "RINGS", "places"]

EVENTS, LEVELS = "watch_events", "watch_levels"
"""Ports of the simulated top: what is recorded whenever it changes, and what every few cycles."""

RINGS = {"ring": "weight ring", "demand": "demand ring"}
"""The rings whose fill is recorded, and what people call them."""


def _handshakes(place: str, *names: str) -> dict[str, str]:
    """Places of ``valid`` and ``ready`` of streams of one component."""
    return {
        f"{place.rpartition('.')[2]}.{name}.{signal}": f"{place}:{name}.{signal}"
        for name in names
        for signal in ("valid", "ready")
    }


def _members(place: str, *names: str) -> dict[str, str]:
    return {f"{place.rpartition('.')[2]}.{name}": f"{place}:{name}" for name in names}


def places(config: AcceleratorConfig) -> dict[str, dict[str, str]]:
    """For each port the fields, by names of the form ``component.member``."""
    compute, data = "core.compute", "core.data_engine"
    both = range(sides(config))
    events = {
        **_members("sequencer", "busy", "done", "failed", "code.valid", "code.ready"),
        **{
            key: place
            for queue in QUEUES
            for key, place in _handshakes(f"core.{queue}_queue", "i", "o").items()
        },
        # The data engine.
        **_handshakes(f"{data}.load_unit", "i", "take", "a_write", "x_write", "norm"),
        **_members(f"{data}.load_unit", "give.valid"),
        **_handshakes(f"{data}.load_unit.order", "i"),
        **_members(f"{data}.load_unit.order", "i.payload"),
        **{
            key: place
            for n in both
            for key, place in _handshakes(f"{data}.load_unit.handed_{n}", "o").items()
        },
        **_handshakes(f"{data}.store_unit", "i", "take"),
        **_members(f"{data}.store_unit", "give.valid", "axi.wvalid", "axi.wready"),
        **{
            f"data_engine.axi_r.{n}.{name}": f"{data}:axi_r.{n}.{name}"
            for n in both
            for name in ("rvalid", "rready")
        },
        # The norm engine.
        **_handshakes(f"{compute}.norm", "i", "take", "o"),
        **_members(f"{compute}.norm", "busy", "give.valid"),
        # Loader, array, epilogue, softmax and gate.
        **_handshakes(f"{compute}.loader", "i", "take", "o"),
        **_members(f"{compute}.loader", "busy", "skipped"),
        **_members(f"{compute}.loader.reader", "reading", "start"),
        **_members(f"{compute}.loader.lookup", "valid"),
        **{
            f"array.{name}": f"{compute}.array.issue:{name}"
            for name in ("i.valid", "i.ready", "i.payload.drain.last", "step", "stall", "pending")
        },
        **{
            f"epilogue.{name}": f"{compute}.epilogue.issue:{name}"
            for name in (
                *("i.valid", "i.ready", "i.payload.last", "valid", "tile_valid", "scales_valid"),
                *("gate_full", "in_flight", "give.valid"),
            )
        },
        **_members(f"{compute}.softmax", "busy"),
        **_members(f"{compute}.gate", "busy", "done"),
        # The weight engine.
        **_handshakes("core.weights", "i", "take"),
        **_members("core.weights", "give.valid", "misses", "stream_busy"),
        **_members("core.weights", "beats_read", "demand_read"),
    }
    levels = {
        **_members("core.weights", *(f"{ring}_filled" for ring in RINGS)),
        **_members("core.weights", *(f"{ring}_released" for ring in RINGS)),
        **{f"lengths.{e}": f"{compute}.gate:lengths.{e}" for e in range(config.limits.experts)},
    }
    return {EVENTS: events, LEVELS: levels}

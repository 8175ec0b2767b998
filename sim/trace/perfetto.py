"""Timelines as a trace of Perfetto: slices of every unit, and counters.

One cycle is a nanosecond of the trace. Every timeline is a process of its own, and those of an
estimate have other numbers than those of the RTL, so that two files one behind the other are a
trace of both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from moevit.compiler.timeline import State, Timeline, Unit

__all__ = ["encode"]

_ESTIMATES = 1000
"""Added to the process numbers of what is not the RTL."""

_STATE_CLEARED, _NEEDS_STATE = 1, 2  # TracePacket.SequenceFlags
_BEGIN, _END, _COUNTER = 1, 2, 4  # TrackEvent.Type
_EXPLICIT = 3  # TrackDescriptor.ChildTracksOrdering

_CATEGORIES = {State.BUSY: "busy", State.FLIGHT: "in flight", State.NO_WORK: "idle"}


class _Names:
    """Texts that a sequence refers to by number."""

    def __init__(self, member: str, text: str) -> None:
        self._member, self._text = member, text
        self._numbers: dict[str, int] = {}

    def number(self, packet: Any, name: str) -> int:
        """The number of a text, which the packet brings if it is new."""
        found = self._numbers.get(name)
        if found is None:
            found = self._numbers[name] = len(self._numbers) + 1
            entry = getattr(packet.interned_data, self._member).add()
            entry.iid = found
            value = name.encode() if self._text == "str" else name
            setattr(entry, self._text, value)
        return found


class _Writer:
    """The packets of one timeline."""

    def __init__(self, timeline: Timeline, number: int) -> None:
        from perfetto.trace_builder.proto_builder import TraceProtoBuilder

        self._builder = TraceProtoBuilder()
        self._timeline, self._number = timeline, number
        self._names = _Names("event_names", "name")
        self._categories = _Names("event_categories", "name")
        self._keys = _Names("debug_annotation_names", "name")
        self._values = _Names("debug_annotation_string_values", "str")
        self._tracks = 0
        self._first = True

    def encode(self) -> bytes:
        timeline = self._timeline
        config = timeline.program.config
        process = self._track()
        process.process.pid = self._number
        process.process.process_name = f"{timeline.title}, preset {config.name} (1 ns = 1 cycle)"
        process.child_ordering = _EXPLICIT
        self._process = process.uuid
        track = self._child("frames").uuid
        for number, frame in enumerate(timeline.frames):
            counters = {name: str(value) for name, value in frame.counters.items()}
            self._begin(track, frame.start, f"frame {number}: {frame.task}", "frame", counters)
            self._end(track, frame.end)
        for unit in timeline.units.values():
            self._unit(unit)
        for level in timeline.levels:
            descriptor = self._child(level.name)
            descriptor.counter.unit_name = level.unit
            for time, value in zip(level.times, level.values, strict=True):
                event = self._event(descriptor.uuid, time, _COUNTER).track_event
                if isinstance(value, int):
                    event.counter_value = value
                else:
                    event.double_counter_value = value
        encoded: bytes = self._builder.serialize()
        return encoded

    def _unit(self, unit: Unit) -> None:
        timeline, track = self._timeline, self._child(unit.name).uuid
        for time, item, cut in _nested(unit):
            if item is None:
                self._end(track, time)
            elif cut:
                about = {"waits for": item.waits_for} if item.waits_for else {}
                kind = _CATEGORIES.get(item.state, "stall")
                self._begin(track, time, item.state.value, kind, about)
            else:
                about = {"index": str(item.index), "instruction": timeline.text(item)}
                self._begin(track, time, timeline.note(item), "instruction", about)

    # Packets -----------------------------------------------------------------------------------
    def _packet(self) -> Any:
        packet = self._builder.add_packet()
        packet.trusted_packet_sequence_id = self._number
        packet.sequence_flags = _STATE_CLEARED if self._first else _NEEDS_STATE
        self._first = False
        return packet

    def _track(self) -> Any:
        descriptor = self._packet().track_descriptor
        descriptor.uuid = (self._number << 16) + self._tracks
        self._tracks += 1
        return descriptor

    def _child(self, name: str) -> Any:
        descriptor = self._track()
        descriptor.parent_uuid = self._process
        descriptor.name = name
        descriptor.sibling_order_rank = self._tracks
        return descriptor

    def _event(self, track: int, time: int, kind: int) -> Any:
        packet = self._packet()
        packet.timestamp = int(time)
        packet.track_event.type = kind
        packet.track_event.track_uuid = track
        return packet

    def _begin(
        self, track: int, time: int, name: str, category: str, about: Mapping[str, str]
    ) -> None:
        packet = self._event(track, time, _BEGIN)
        event = packet.track_event
        event.name_iid = self._names.number(packet, name)
        event.category_iids.append(self._categories.number(packet, category))
        for key, value in about.items():
            annotation = event.debug_annotations.add()
            annotation.name_iid = self._keys.number(packet, key)
            annotation.string_value_iid = self._values.number(packet, value)

    def _end(self, track: int, time: int) -> None:
        self._event(track, time, _END)


def _nested(unit: Unit) -> Iterator[tuple[int, Any, bool]]:
    """Begins, and None for ends, in order; states within instructions, cut where those end."""
    edges = np.unique([edge for work in unit.works for edge in (work.start, work.end)])
    events: list[tuple[int, int, Any]] = []
    for work in unit.works:
        events += [(work.end, 1, None), (work.start, 2, work)]
    for s in unit.stretches:
        inner = edges[np.searchsorted(edges, s.start, "right") : np.searchsorted(edges, s.end)]
        cuts = [s.start, *inner.tolist(), s.end]
        for start, end in pairwise(cuts):
            events += [(end, 0, None), (start, 3, s)]
    events.sort(key=lambda event: event[:2])
    for time, order, item in events:
        yield time, item, order == 3


def encode(timelines: Sequence[Timeline]) -> bytes:
    """A trace file of some timelines, whose cycles all begin at the same time."""
    parts, counts = [], {True: 0, False: 0}
    for timeline in timelines:
        estimated = timeline.title.startswith("estimate")
        counts[estimated] += 1
        number = counts[estimated] + estimated * _ESTIMATES
        parts.append(_Writer(timeline, number).encode())
    return b"".join(parts)

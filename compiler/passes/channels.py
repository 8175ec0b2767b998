"""Channels of credits: which engine tells which, and who gives and takes what."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field

from ..graph import Engine

__all__ = ["Channel", "Credits", "SyncOp", "Take", "channel_name", "channels", "paired"]

_PAIRS = (
    (Engine.LOAD, Engine.COMPUTE),
    (Engine.LOAD, Engine.NORM),
    (Engine.STORE, Engine.LOAD),
    (Engine.STORE, Engine.COMPUTE),
    (Engine.NORM, Engine.COMPUTE),
    (Engine.NORM, Engine.STORE),
    (Engine.COMPUTE, Engine.LOAD),
    (Engine.COMPUTE, Engine.STORE),
    (Engine.COMPUTE, Engine.NORM),
    (Engine.COMPUTE, Engine.COMPUTE),
    (Engine.COMPUTE, Engine.FETCH),
    (Engine.FETCH, Engine.COMPUTE),
    (Engine.GATE, Engine.COMPUTE),
)
"""Who tells whom by a counter of its own, from number 1 on. Everything else goes by compute."""

_PAIRED = len(_PAIRS) + 1


@dataclass(eq=False, kw_only=True)
class Take:
    """Credits that an instruction takes: ``count`` at once, or one for each of its tiles.

    ``key``: its place among all takes of its channel.
    """

    channel: Channel
    key: tuple[int, int]
    count: int = 0
    tiles: bool = False


@dataclass(eq=False, kw_only=True)
class Channel:
    """A counter from one engine to another.

    ``credits``: the position that each credit stands for, in order; ``makers``: the operation that
    gives it; ``taken``: how many have been taken.
    """

    number: int
    producer: Engine
    consumer: Engine
    credits: list[int] = field(default_factory=list)
    makers: list[int] = field(default_factory=list)
    takes: list[Take] = field(default_factory=list)
    taken: int = 0

    # Giving ------------------------------------------------------------------------------------
    def follows(self, position: int) -> bool:
        """Whether a credit for ``position`` would come behind all that there are."""
        return not self.credits or position > self.credits[-1]

    def add(self, positions: list[int], maker: int) -> None:
        """An operation's credits, behind all others."""
        self.credits += positions
        self.makers += [maker] * len(positions)

    def up_to(self, position: int) -> int | None:
        """Credits up to the first that comes at ``position`` or behind it."""
        found = bisect_left(self.credits, position)
        return found + 1 if found < len(self.credits) else None

    # Taking ------------------------------------------------------------------------------------
    def take(self, op: int, order: int, count: int, *, tiles: bool = False) -> Take:
        """The next ``count`` credits, for an operation behind all that have taken so far."""
        take = Take(channel=self, key=(op, order), count=count, tiles=tiles)
        self.takes.append(take)
        self.taken += count
        return take

    def can_take(self, end: int, before: int) -> bool:
        """Whether the last take may take all credits up to ``end``: all come in front of it."""
        if not self.takes or self.takes[-1].key[0] >= before or end > len(self.credits):
            return False
        return all(maker < self.takes[-1].key[0] for maker in self.makers[self.taken : end])

    def take_more(self, end: int) -> None:
        """The last take has all credits up to ``end``, at once."""
        if end > self.taken:
            last = self.takes[-1]
            last.tiles, last.count = False, last.count + end - self.taken
            self.taken = end

    def can_insert(self, key: tuple[int, int], end: int) -> bool:
        """Whether takes behind ``key`` can do without credits up to ``end``."""
        at = bisect_right([take.key for take in self.takes], key)
        left = end - sum(take.count for take in self.takes[:at])
        for take in self.takes[at:]:
            if left > 0 and take.tiles:
                return False
            left -= take.count
        return True

    def insert(self, key: tuple[int, int], end: int) -> Take | None:
        """A take of all credits up to ``end`` at an earlier place; None if they are taken there."""
        at = bisect_right([take.key for take in self.takes], key)
        left = count = end - sum(take.count for take in self.takes[:at])
        if count <= 0:
            return None
        for take in self.takes[at:]:
            less = min(take.count, left)
            take.count, left = take.count - less, left - less
        self.taken += left
        found = Take(channel=self, key=key, count=count)
        self.takes.insert(at, found)
        return found


@dataclass(eq=False, kw_only=True)
class SyncOp:
    """A SYNC: what it takes, and whom it tells that everything in front of it is written."""

    take: Take | None = None
    signal: Channel | None = None


@dataclass(eq=False, kw_only=True)
class Credits:
    """What an operation waits for and signals, and SYNCs in front of it and behind it."""

    wait: Take | None = None
    signal: Channel | None = None
    before: list[SyncOp] = field(default_factory=list)
    behind: list[SyncOp] = field(default_factory=list)


def channels() -> dict[tuple[Engine, Engine], Channel]:
    """A program's channels, none of them used yet."""
    return {
        (producer, consumer): Channel(number=n, producer=producer, consumer=consumer)
        for n, (producer, consumer) in enumerate(_PAIRS, 1)
    }


def paired() -> Channel:
    """Tiles of an expert's first layer to its second, as many as its queue has."""
    return Channel(number=_PAIRED, producer=Engine.COMPUTE, consumer=Engine.COMPUTE)


def channel_name(number: int) -> str:
    """Name of a counter in listings."""
    if number == _PAIRED:
        return "expert"
    if 0 < number < _PAIRED:
        return "->".join(engine.name.lower() for engine in _PAIRS[number - 1])
    return f"s{number}"

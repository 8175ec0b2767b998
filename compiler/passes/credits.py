"""Fourth pass: the credits that keep engines apart, derived from what operations read and write.

Each engine works in the order of its own queue. What else must hold follows from the words that
operations touch (:mod:`.hazards`): a read comes behind the write of what it reads, a write behind
the reads and writes of what it replaces. Such a need is a *position*: how far another engine must
have come in its own sequence of events (a tile written, a LOAD or STORE complete). A
:class:`~.channels.Channel` carries credits from one engine to one other, given and taken in order,
so that its n-th credit stands for one position.

Each event has a clock: the positions of all engines that lie behind it for certain, because its
engine has waited for them. For every operation, in program order, what it needs beyond its engine's
clock becomes credits that it takes: one a tile, where tiles of both sides correspond, else all at
once. An instruction can take from one channel and give to one; what is more goes through SYNCs of
the compute engine, which also relay to one engine what another did. All credits come from
operations in front of those that take them, so a program cannot deadlock.

Within the compute engine only a write and a later read through the activation or key and value
memory need credits: operands are read in order, and a tile is written behind all reads in front of
it. A queue's length is not known here; what one layer of an expert makes for the next is paired
tile by tile on a channel of its own.
"""

from __future__ import annotations

import numpy as np

from ..graph import Engine, Graph, Op
from ..plan.layout import Ints
from .channels import Channel, Credits, SyncOp, Take, channels, paired
from .events import Events
from .hazards import Hazards

__all__ = ["derive"]

_BEFORE, _ITSELF = 0, 1
"""Order of takes: by SYNCs in front of an operation, by itself."""


def derive(graph: Graph) -> list[Credits]:
    """What each operation of an ordered graph waits for and signals, in order."""
    return _Derivation(graph).run()


class _Derivation:
    """The walk through a program."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.ops, self.tokens = graph, graph.ops, graph.config.array.tokens
        self.hazards = Hazards(graph)
        self.credits = [Credits() for _ in self.ops]
        self.channels, self.paired = channels(), paired()
        self.events = {engine: Events() for engine in Engine}
        self.clock = {engine: Events.start() for engine in Engine}
        self.product = -1  # the last operation of the compute engine; -1 is in front of the first
        self.events[Engine.COMPUTE].add_slots(-1, Engine.COMPUTE, Events.start())

    def run(self) -> list[Credits]:
        for n, op in enumerate(self.ops):
            needs = self.hazards.needs(op)
            if op.engine == Engine.COMPUTE:
                self.pair(n, op, needs)
                tile = self.of_compute(n, op, needs)
            else:
                tile = self.of_others(n, op, needs)
            self.happen(n, op, tile)
        for channel in self.channels.values():
            self.use_up(channel)
        return self.credits

    def pair(self, n: int, op: Op, needs: Ints) -> None:
        """An expert's second layer reads what its first made, in the same slots of the queue."""
        if not op.dynamic or op.fields.get("gather"):
            return
        position = self.hazards.written(op.reads[0], Engine.COMPUTE)
        maker = self.events[Engine.COMPUTE].owner[position]
        if self.ops[maker].queue != op.queue or not self.ops[maker].dynamic:
            raise AssertionError(f"{op.note}: what it reads is not its first layer's")
        if self.credits[maker].signal is None:
            self.credits[maker].signal = self.paired
            self.credits[n].wait = Take(channel=self.paired, key=(n, _ITSELF), tiles=True)
        needs[:, Engine.COMPUTE] = -1

    def happen(self, n: int, op: Op, tile: Ints | None) -> None:
        """Events of an operation, whose tiles have taken credits with the clocks ``tile``."""
        engine, tiles = op.engine, op.tiles(self.tokens)
        events, clock = self.events[engine], self.clock[engine]
        if tile is not None:
            known = np.maximum.accumulate(np.maximum(tile, clock), axis=0)
            np.maximum(clock, known[-1], out=clock)
        else:
            known = np.broadcast_to(clock, (tiles, len(Engine)))
        count = tiles if engine in (Engine.COMPUTE, Engine.NORM) else 1
        first, routed = events.add(n, engine, known[-count:]), -1
        if engine == Engine.COMPUTE:
            events.add_slots(n, engine, clock)
            self.product = n
        if op.routes:
            last = events.clocks[first + count - 1 : first + count]
            routed = self.events[Engine.GATE].add(n, Engine.GATE, last)
        self.hazards.happen(op, first, count, routed)

    # Who waits how -----------------------------------------------------------------------------
    def missing(self, engine: Engine, needs: Ints) -> list[Engine]:
        """Whom the engine must still wait for, but for what follows from others of them."""
        top, clock = needs.max(axis=0), self.clock[engine]
        found = [other for other in Engine if top[other] > clock[other]]
        for other in list(found):
            for by in found:
                first = needs[0, by]
                implied = by != other and first > clock[by]
                if implied and self.events[by].clocks[first, other] >= top[other]:
                    found.remove(other)
                    break
        return found

    def of_compute(self, n: int, op: Op, needs: Ints) -> Ints | None:
        """Waits of an operation of the compute engine; SYNCs in front of it take what is more."""
        engine, mine, tile = Engine.COMPUTE, self.credits[n], None
        missing = self.missing(engine, needs)
        for by in (Engine.COMPUTE, Engine.NORM):
            if by in missing and tile is None and not op.dynamic:
                tile = self.by_tile(n, self.channels[by, engine], needs[:, by])
                missing = [e for e in missing if tile is None or e != by]
        for other in missing:
            position = int(needs[:, other].max())
            if position <= self.clock[engine][other]:
                continue
            take = self.at_once(n, (other, engine), position, _BEFORE)
            take = take or self.covering(n, engine, needs, [other], _BEFORE)
            if take is None:
                raise AssertionError(f"{op.note}: nobody can say that {other.name} is ready")
            if op.dynamic or mine.wait is not None:
                mine.before.append(SyncOp(take=take))
            else:
                mine.wait = take
        return tile

    def of_others(self, n: int, op: Op, needs: Ints) -> Ints | None:
        """Waits of another engine's operation, which can take from one channel only."""
        engine, mine = op.engine, self.credits[n]
        missing = self.missing(engine, needs)
        if not missing:
            return None
        compute, tilewise = self.channels.get((Engine.COMPUTE, engine)), self.followed(n)
        if compute is not None and Engine.COMPUTE in missing and len(missing) > 1 and tilewise:
            self.wait_earlier(compute, missing, needs)
            missing = self.missing(engine, needs)
        if len(missing) == 1:
            channel = self.channels.get((missing[0], engine))
            need = needs[:, missing[0]]
            if channel is not None:
                tile = self.by_tile(n, channel, need) if tilewise else None
                if tile is not None:
                    return tile
                mine.wait = self.at_once(n, (missing[0], engine), int(need.max()), _ITSELF)
        if mine.wait is None:
            mine.wait = self.covering(n, engine, needs, missing, _ITSELF)
        if mine.wait is None:
            mine.wait = self.relayed(n, engine, needs, missing)
        return None

    def followed(self, n: int) -> bool:
        """Whether what a NORM makes is read by what comes next.

        Else nothing is gained by its tiles, and those of patch embedding would hold it up: 1,024
        cycles of `nano` on preset `default`.
        """
        op = self.ops[n]
        if op.engine != Engine.NORM:
            return True
        following = (other for other in self.ops[n + 1 :] if other.engine != Engine.LOAD)
        readers = next(following, op).reads
        return any(self.graph.overlap(a, b) for a in op.writes for b in readers)

    def by_tile(self, n: int, channel: Channel, need: Ints) -> Ints | None:
        """Take a credit a tile, if tiles of both sides correspond; the clocks of the credits."""
        events = self.events[channel.producer]
        makers = self.makers(channel, need)
        if not makers:
            return None
        more = [p for m in makers if self.credits[m].signal is None for p in events.of(m)]
        credits = np.array([*channel.credits, *more])
        if more and channel.credits and more[0] <= channel.credits[-1]:
            return None
        behind = np.searchsorted(credits, need) - np.arange(len(need))
        start = max(int(behind.max()), channel.taken)
        if start + len(need) > len(credits):
            return None
        if start > channel.taken and not channel.can_take(start, n):
            return None
        for maker in makers:
            self.give(maker, channel)
        channel.take_more(start)
        self.credits[n].wait = channel.take(n, _ITSELF, len(need), tiles=True)
        found: Ints = events.clocks[credits[start : start + len(need)]]
        return found

    def makers(self, channel: Channel, need: Ints) -> list[int]:
        """The operations whose tiles a tile-wise wait would take, none if that makes no sense."""
        if len(need) == 1 or need.min() == need.max():
            return []
        owner = self.events[channel.producer].owner
        found = sorted(
            {owner[p] for p in need if p > self.clock[channel.consumer][channel.producer]}
        )
        fine = all(
            self.credits[m].signal in (None, channel) and not self.ops[m].dynamic for m in found
        ) and not any(self.ops[m].routes for m in found)
        return found if fine else []

    def give(self, maker: int, channel: Channel) -> bool:
        """An operation signals a channel with each of its events; whether it can."""
        op, mine = self.ops[maker], self.credits[maker]
        static = not op.dynamic and (not op.routes or channel.producer == Engine.GATE)
        if mine.signal is channel:
            return True
        positions = self.events[channel.producer].of(maker)
        if mine.signal is not None or not static or not channel.follows(positions[0]):
            return False
        mine.signal = channel
        channel.add(positions, maker)
        return True

    def reach(self, channel: Channel, position: int) -> int | None:
        """Number of credits up to one that stands for ``position``; gives them if need be."""
        found = channel.up_to(position)
        if found is not None:
            return found
        events = self.events[channel.producer]
        maker = events.owner[position]
        if not events.slot[position] and self.give(maker, channel):
            return channel.up_to(position)
        if channel.producer != Engine.COMPUTE:
            return None
        slot = events.slots_of(maker)[0]
        if not channel.follows(slot):
            return None
        self.credits[maker].behind.append(SyncOp(signal=channel))
        channel.add([slot], maker)
        return channel.up_to(position)

    def at_once(self, n: int, key: tuple[Engine, Engine], position: int, order: int) -> Take | None:
        """Take all credits up to one that stands for ``position``; None if nobody can give it."""
        channel = self.channels.get(key)
        count = None if channel is None else self.reach(channel, position)
        if channel is None or count is None:
            return None
        take = channel.take(n, order, count - channel.taken)
        clocks = self.events[channel.producer].clocks
        self.learn(channel.consumer, clocks[channel.credits[count - 1]])
        return take

    def learn(self, engine: Engine, clock: Ints) -> None:
        """An engine has waited for an event with this clock."""
        np.maximum(self.clock[engine], clock, out=self.clock[engine])

    def covering(
        self, n: int, engine: Engine, needs: Ints, missing: list[Engine], order: int
    ) -> Take | None:
        """Wait for one event that comes behind all that is missing."""
        top = needs.max(axis=0)
        for other in (Engine.STORE, Engine.LOAD, Engine.COMPUTE):
            if (other, engine) not in self.channels:
                continue
            position = self.events[other].first(missing, top[missing])
            if position is not None:
                take = self.at_once(n, (other, engine), position, order)
                if take is not None:
                    return take
        return None

    def wait_earlier(self, compute: Channel, missing: list[Engine], needs: Ints) -> None:
        """A product that an engine follows tile by tile waits for what else the engine needs.

        Unless that comes later than what the product waits for itself.
        """
        makers = self.makers(compute, needs[:, Engine.COMPUTE])
        if not makers:
            return
        first, product = makers[0], Engine.COMPUTE
        events = self.events[product]
        start = events.of(first)[0]
        for other in missing:
            if other == product:
                continue
            channel, position = self.channels.get((other, product)), int(needs[:, other].max())
            if channel is None or self.events[other].owner[position] > first:
                return
            wait = self.credits[first].wait
            if wait is not None and wait.channel is channel:
                return
            count = self.reach(channel, position)
            if count is None or not channel.can_insert((first, _BEFORE), count):
                return
            take = channel.insert((first, _BEFORE), count)
            if take is not None:
                self.credits[first].before.append(SyncOp(take=take))
            clock = self.events[other].clocks[channel.credits[count - 1]]
            np.maximum(events.clocks[start:], clock, out=events.clocks[start:])
            self.learn(product, clock)

    def relayed(self, n: int, engine: Engine, needs: Ints, missing: list[Engine]) -> Take:
        """SYNCs in front of the operation wait for all that is missing, and tell its engine."""
        product, mine = Engine.COMPUTE, self.credits[n]
        for other in missing:
            position = int(needs[:, other].max())
            if other == product or position <= self.clock[product][other]:
                continue
            take = self.at_once(n, (other, product), position, _BEFORE)
            take = take or self.covering(n, product, needs, [other], _BEFORE)
            if take is None:
                raise AssertionError(f"{self.ops[n].note}: nobody can say {other.name} is ready")
            mine.before.append(SyncOp(take=take))
        channel, events = self.channels[product, engine], self.events[product]
        slot = events.use_slot(self.product, self.clock[product])
        if mine.before and mine.before[-1].signal is None:
            mine.before[-1].signal = channel
        else:
            mine.before.append(SyncOp(signal=channel))
        channel.add([slot], n - 1)
        self.learn(engine, events.clocks[slot])
        return channel.take(n, _ITSELF, len(channel.credits) - channel.taken)

    def use_up(self, channel: Channel) -> None:
        """Credits that nobody has taken go to whoever takes last, so that none is left over."""
        if channel.taken == len(channel.credits):
            return
        last = channel.takes[-1]
        if not channel.can_take(len(channel.credits), last.key[0] + 1):
            raise AssertionError(f"credits of counter {channel.number} are left over")
        channel.take_more(len(channel.credits))

"""What the simulated memory counted, and how a run ended."""

from dataclasses import dataclass, fields

__all__ = ["PortStats", "RunResult", "Stats"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PortStats:
    """Counters of one AXI master, as the memory saw it. `bad_*` count breaches of the protocol."""

    read_bursts: int
    read_bytes: int
    read_waits: int  # cycles with a read open and no beat offered
    read_stalls: int  # cycles with a beat offered and not taken
    write_bursts: int
    write_bytes: int
    write_waits: int  # cycles with a beat offered and not taken
    error_responses: int
    bad_boundary: int  # bursts across 4 KiB
    bad_burst: int  # not INCR, or beats narrower than the port
    bad_alignment: int
    bad_stability: int  # valid withdrawn, or payload changed, before ready
    bad_last: int

    @property
    def violations(self) -> int:
        """Breaches of the protocol of any kind."""
        return sum(getattr(self, f.name) for f in fields(self) if f.name.startswith("bad_"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """What happened since the counters were cleared."""

    cycles: int
    seconds: float  # of wall time within `run`
    ports: dict[str, PortStats]

    @property
    def read_bytes(self) -> int:
        return sum(port.read_bytes for port in self.ports.values())

    @property
    def write_bytes(self) -> int:
        return sum(port.write_bytes for port in self.ports.values())

    @property
    def violations(self) -> int:
        return sum(port.violations for port in self.ports.values())

    @property
    def cycles_per_second(self) -> float:
        """Simulated cycles a second of wall time; 0.0 before the first run."""
        return self.cycles / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True)
class RunResult:
    """`interrupt` says whether the interrupt came within the limit; `cycles` is how many passed."""

    interrupt: bool
    cycles: int

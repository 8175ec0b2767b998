"""Lines of the RTL that ran: from Verilator's counters to components and signals."""

from pathlib import Path

import pytest
from amaranth.back import rtlil, verilog
from amaranth.hdl import Elaboratable, Module, Signal
from support.rtl import SMALL

from moevit.bench.campaign import lines


class Small(Elaboratable):
    """A register with three ways to its next value."""

    def __init__(self) -> None:
        self.up = Signal()
        self.down = Signal()
        self.count = Signal(4)

    def elaborate(self, _platform: object) -> Module:
        m = Module()
        with m.If(self.up):
            m.d.sync += self.count.eq(self.count + 1)
        with m.Elif(self.down):
            m.d.sync += self.count.eq(self.count - 1)
        return m


def record(count: int, **values: str) -> str:
    text = "".join(f"\1{key}\2{value}" for key, value in values.items())
    return f"C '{text}' {count}"


@pytest.fixture
def text(monkeypatch: pytest.MonkeyPatch) -> str:
    """The Verilog of a small design in place of the accelerator's."""
    made = Small()
    ports = (made.up, made.down, made.count)
    text = verilog.convert(made, name="top", ports=ports, emit_src=False)
    monkeypatch.setattr(lines, "_text", lambda _config: text)
    monkeypatch.setattr(
        lines, "_rtlil", lambda _config: rtlil.convert(made, name="top", ports=ports)
    )
    return text


def line_of(text: str, part: str) -> int:
    return next(n for n, line in enumerate(text.splitlines(), 1) if part in line)


def test_lines_and_toggles(text: str, tmp_path: Path) -> None:
    up, down = line_of(text, "if (up)"), line_of(text, "if (down)")
    data = tmp_path / "coverage.dat"
    data.write_text(
        "\n".join(
            (
                "# SystemC::Coverage-3",
                record(7, l=str(up), page="v_branch/top", o="if", S=f"{up}-{up + 1}"),
                record(0, l=str(down), page="v_branch/top", o="elsif", S=f"{down},{down + 1}"),
                record(9, l=str(up), page="v_branch/top", o="else", S=""),
                record(3, l="1", page="v_toggle/top", o="count[0]:0->1"),
                record(0, l="1", page="v_toggle/top", o="count[3]:0->1"),
            )
        )
    )
    found = lines.read_lines(data, SMALL)
    assert found.lines == (2, 4)
    assert (len(found.toggled), len(found.toggles)) == (1, 2)
    component, signal, _, text_of = found.missing[0]
    assert component == "top"
    assert "test_campaign_lines.py" in signal
    assert "down" in text_of

    other = lines.Lines()
    other.add(found)
    for branch in found.seen:
        other.branches[branch] += 1
    other.add(found)
    assert other.missing == []  # what another machine has run has run

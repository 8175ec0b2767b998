"""The cocotb runner, shown on the smallest stream stage there is."""

from pathlib import Path

import pytest
from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from moevit.sim.runner import BenchError, run_bench


class Stage(wiring.Component):
    """One register of a stream; adds one on the way."""

    i: In(stream.Signature(8))
    o: Out(stream.Signature(8))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self.i.ready.eq(~self.o.valid | self.o.ready)
        with m.If(self.i.ready):
            m.d.sync += [self.o.valid.eq(self.i.valid), self.o.payload.eq(self.i.payload + 1)]
        return m


HERE = Path(__file__).parent


@pytest.mark.parametrize("seed", [1, 2])
def test_a_bench_passes(seed: int) -> None:
    assert run_bench(Stage(), "bench_stage", search=[HERE], seed=seed) == 1


def test_a_wrong_expectation_fails_with_the_seed_and_the_log() -> None:
    with pytest.raises(BenchError, match=r"(?s)\(seed 3\): .*adds_one failed.*assert"):
        run_bench(Stage(), "bench_stage", search=[HERE], seed=3, parameters={"add": 2})


def test_a_module_without_the_test_is_an_error() -> None:
    with pytest.raises(BenchError, match="seed 0"):
        run_bench(Stage(), "bench_stage", search=[HERE], tests=["no_such_test"])


def test_bad_verilog_is_an_error_with_the_tool_s_words() -> None:
    with pytest.raises(BenchError, match=r"(?s)build of top failed.*syntax error"):
        run_bench("module top(; endmodule\n", "bench_stage", search=[HERE])


@pytest.mark.slow
def test_waves_are_written_where_asked(tmp_path: Path) -> None:
    waves = tmp_path / "stage.vcd"
    run_bench(Stage(), "bench_stage", search=[HERE], parameters={"count": 3}, waves=waves)
    assert "$enddefinitions" in waves.read_text()

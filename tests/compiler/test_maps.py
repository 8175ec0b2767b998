"""Maps of upsampling heads: places that do not collide, tiles that cover each window once."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moevit.compiler import compile_network
from moevit.compiler.plan.layout import Shapes
from moevit.compiler.plan.maps import Map, least_words, longest_window, plan_maps
from moevit.hw.config import preset
from moevit.hw.isa import Gemm, Load, Store
from moevit.quant.formats import Multiplier
from moevit.quant.network import Geometry
from moevit.quant.operators.linear import Linear
from moevit.quant.operators.upsampling import Stage, UpsamplingHead, windows
from moevit.quant.random_network import Sizes, random_network

MICRO = preset("micro")


def layer(outputs: int, inputs: int) -> Linear:
    one = Multiplier.from_scale(1.0)
    return Linear(
        weight=np.zeros((outputs, inputs), np.int8),
        bias=np.zeros(outputs, np.int32),
        mult=np.full(outputs, one.mult, np.uint16),
        shift=np.full(outputs, one.shift, np.uint8),
    )


def head(grid: tuple[int, int], dim: int, width: int, channels: int, doublings: int):
    """A head of zeros: only its sizes matter."""
    (h, w), inputs, stages = grid, dim, []
    kinds = [(3, n > 0, True) for n in range(max(doublings, 1))] + [(1, doublings > 0, False)]
    for kernel, doubling, relu in kinds:
        outputs = width if relu else channels
        stage = Stage(
            height=h,
            width=w,
            channels=inputs,
            kernel=kernel,
            doubling=doubling,
            relu=relu,
            linears=tuple(
                layer(outputs, window.taps * inputs)
                for window in windows((h, w), kernel=kernel, doubling=doubling)
            ),
        )
        stages.append(stage)
        h, w, inputs = stage.factor * h, stage.factor * w, outputs
    return UpsamplingHead(norm=None, stages=tuple(stages))


@given(
    st.tuples(st.integers(1, 9), st.integers(1, 40)),
    st.integers(1, 40),
    st.integers(1, 30),
    st.integers(1, 9),
    st.integers(0, 3),
    st.booleans(),
    st.integers(0, 3000),
    st.integers(1, 60),
)
def test_plan(
    grid: tuple[int, int],
    dim: int,
    width: int,
    channels: int,
    doublings: int,
    here: bool,
    spare: int,
    tokens: int,
) -> None:
    """Whatever room there is from the least on."""
    config = MICRO.but(limits__tokens=tokens)
    found = head(grid, dim, width, channels, doublings)
    geometry = Geometry(
        image_height=8 * grid[0], image_width=8 * grid[1], patch=8, channels=3, dim=dim, heads=1
    )
    s = Shapes(config=config, geometry=geometry)
    pixel = s.chunks if here else s.stored_words(8 * s.chunks)
    first = Map(height=grid[0], width=grid[1], words=pixel, base=0 if here else None)
    room = least_words(found, s, pixel) + spare + (first.size if here else 0)
    plan = plan_maps(found, s, first, room=room, scratch=64)
    assert plan is not None
    assert longest_window(found, s, pixel) >= pixel
    at = 64
    for n, (stage, tiles) in enumerate(zip(found.stages, plan.tiles, strict=True)):
        source, target = plan.maps[n : n + 2]
        size = (stage.factor * source.height, stage.factor * source.width)
        assert (target.height, target.width) == size
        spans = [(m.base, m.base + m.size) for m in (source, target) if m.base is not None]
        read = (tiles.lines + 2) * (tiles.columns + 2) * source.words
        spans += [(b, b + read) for b in tiles.inputs]
        spans += [(b, b + tiles.lines * tiles.columns * target.words) for b in tiles.outputs]
        spans.sort()
        assert all(a[1] <= b[0] for a, b in pairwise(spans)), spans
        assert not spans or (spans[0][0] >= 0 and spans[-1][1] <= room)
        assert bool(tiles.inputs) == (source.base is None)
        assert bool(tiles.outputs) == (target.base is None)
        assert tiles.lines * tiles.columns <= tokens
        if target.base is None and stage.relu:
            assert target.address >= at
            at = target.address + target.size * config.array.inputs
        for window in stage.windows:
            seen = np.zeros((stage.height, stage.width), int)
            for t in tiles.of(window):
                seen[t.y : t.y + t.lines, t.x : t.x + t.columns] += 1
                assert t.lines <= tiles.lines
                assert t.columns <= tiles.columns
            inside = np.zeros_like(seen)
            rows, columns = window.rows, window.columns
            inside[
                rows.start : rows.start + rows.count, columns.start : columns.start + columns.count
            ] = 1
            np.testing.assert_array_equal(seen, inside)
    assert at <= 64 + plan.scratch


def test_none_where_not_even_a_pixel_fits() -> None:
    found = head((3, 4), 16, 12, 3, 2)
    geometry = Geometry(image_height=24, image_width=32, patch=8, channels=3, dim=16, heads=1)
    s = Shapes(config=MICRO, geometry=geometry)
    first = Map(height=3, width=4, words=2, base=0)
    assert plan_maps(found, s, first, room=first.size + 1, scratch=0) is None


UP = Sizes(decoder_width=12, doublings=2, dim=16, image_height=32, image_width=40)


def test_weights_come_once_for_all_tiles_of_a_window() -> None:
    """Maps in memory cost pixels, not weights."""
    network = random_network(1, replace(UP, doublings=3))
    sizes = {}
    for words in (8000, 700):
        program = compile_network(
            network, MICRO.but(memory__activation_words=words, limits__tokens=512), ["task0"]
        )
        sizes[words] = program.header("task0").stream_beats
        code = program.instructions("task0")
        assert any(isinstance(i, Gemm) and i.line and i.keep for i in code) == (words == 700)
        assert any(isinstance(i, Load) and i.stored for i in code) == (words == 700)
        stores = [i for i in code if isinstance(i, Store)]
        assert (len(stores) == 1) == (words == 8000)
    assert sizes[700] == sizes[8000]


def test_useful_macs_are_those_of_the_convolutions() -> None:
    """As PyTorch would count them: of doubled maps, and the 1x1 in front of its doubling."""
    network = random_network(1, UP)
    with_head = compile_network(network, MICRO, ["task0"]).task("task0").useful_macs
    without = replace(network, heads={})
    base = compile_network(without, MICRO, ["task0"]).task("task0").useful_macs
    channels = UP.head_channels[0]
    convolutions = 20 * 9 * 16 * 12 + 80 * 9 * 12 * 12 + 80 * 12 * channels
    assert with_head - base == convolutions


def test_refusal() -> None:
    """A contraction that the loader cannot hold."""
    network = random_network(1, replace(UP, decoder_width=40))
    with pytest.raises(ValueError, match=r"longest contraction is 432.*limits\.depth=432"):
        compile_network(network, MICRO.but(limits__depth=400))

"""Running compiled programs on the interpreter, and shapes to compile."""

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from moevit.compiler import Program
from moevit.quant.formats import WEIGHT_BITS
from moevit.quant.operators.activations import ACTIVATIONS
from moevit.quant.random_network import Sizes
from moevit.sim.interpreter import Interpreter, Outcome

__all__ = ["AWKWARD", "Layout", "place", "run_program", "sizes"]

PAGE = 4096


class Layout:
    """Where a program, an image and the outputs lie in one memory."""

    def __init__(self, program: Program) -> None:
        self.image = -(-len(program.memory) // PAGE) * PAGE
        self.output = self.image + -(-program.image.size // PAGE) * PAGE
        self.size = self.output + program.output_bytes


def place(program: Program, image: np.ndarray) -> tuple[np.ndarray, Layout]:
    """A memory with the program at 0 and the image behind it."""
    at = Layout(program)
    memory = np.full(at.size, 0xA5, np.uint8)
    memory[: len(program.memory)] = program.memory
    memory[at.image : at.image + program.image.size] = program.image.pack(image)
    return memory, at


def run_program(
    program: Program, image: np.ndarray, task: str, **options: Any
) -> tuple[np.ndarray, Outcome]:
    """One frame on the interpreter: the task's output and what the frame left."""
    memory, at = place(program, image)
    outcome = Interpreter(program.config).run(
        memory,
        program_base=program.task(task).base,
        image_base=at.image,
        output_base=at.output,
        **options,
    )
    output = program.task(task).output
    start = at.output + output.address
    return output.unpack(memory[start : start + output.size]), outcome


_FUNCTIONS = list(ACTIVATIONS)

AWKWARD = {
    "plain": Sizes(),
    "one expert": Sizes(experts=1, top_k=1, expert_hidden=20, moe=(0, 1)),
    "all experts": Sizes(experts=3, top_k=3),
    "4-bit experts": Sizes(expert_bits=4, expert_hidden=50),
    "4 bits, all to one": Sizes(expert_bits=4, top_k=1, style="one", favourite=3, moe=(0, 1)),
    "one head": Sizes(heads=1, dim=24),
    "narrow heads": Sizes(heads=5, dim=20),
    "all to one": Sizes(experts=3, top_k=1, style="one", favourite=2),
    "never chosen": Sizes(style="starved", favourite=1, moe=(0,)),
    "odd tokens": Sizes(image_height=40, image_width=24, moe=(0,), depth=1),
    "one patch": Sizes(image_height=8, image_width=8),
    "no class token": Sizes(class_token=False, moe=()),
    "dense last": Sizes(moe=(0,)),
    "grey, small patches": Sizes(channels=1, patch=4, image_width=28),
    "class head": Sizes(class_heads=True, head_channels=(37, 3), image_width=40),
    "class head, dense last": Sizes(class_heads=True, head_channels=(5, 300), moe=(0,)),
    "distilled": Sizes(class_heads=True, distilled=True, head_channels=(37, 3), dim=20),
    "distilled, patch heads": Sizes(distilled=True, image_height=24),
    "registers": Sizes(class_heads=True, registers=3, head_channels=(9, 3), dim=20),
    "registers, no class token": Sizes(registers=5, class_token=False, mean_heads=True),
    "odd patch": Sizes(patch=7, image_height=21, image_width=35),
    "odd patch, grey": Sizes(patch=5, channels=1, image_height=20, image_width=45),
    "norm behind the mean": Sizes(
        mean_heads=True, pool_norm=True, norm=False, registers=2, class_token=False, dim=20
    ),
    "norm behind the mean, all": Sizes(
        mean_heads=True, pool_norm=True, norm=False, entry=True, head_channels=(37, 3), moe=()
    ),
    "norm in front": Sizes(entry=True, moe=(0,)),
    "norm in front, gates ahead": Sizes(entry=True, ahead=True, moe=(0, 1)),
    "norm in front, one token": Sizes(
        entry=True, class_token=False, image_height=8, image_width=8, norm=False, head_channels=()
    ),
    "norm in front, all": Sizes(
        entry=True,
        distilled=True,
        registers=2,
        dim=20,
        patch=5,
        moe=(),
        image_height=20,
        image_width=25,
    ),
    "mean head": Sizes(mean_heads=True, head_channels=(37, 3), image_width=40),
    "mean head, no class token": Sizes(mean_heads=True, class_token=False, dim=20, moe=()),
    "mean head, one patch": Sizes(mean_heads=True, distilled=True, image_height=8, image_width=8),
    "upsampling": Sizes(decoder_width=12, doublings=2, dim=16),
    "upsampling, one patch": Sizes(decoder_width=9, image_height=8, image_width=8, dim=16),
    "upsampling, own norm": Sizes(decoder_width=5, norm=False, doublings=1, dim=16, moe=(0,)),
    "upsampling, two lines": Sizes(decoder_width=16, doublings=3, image_width=56, dim=12),
    "convolution": Sizes(decoder_width=7, doublings=0, image_height=40, dim=8, class_token=False),
    "no head": Sizes(head_channels=(), dim=24),
    "no norm": Sizes(head_channels=(), norm=False),
    "no norm, dense": Sizes(head_channels=(), norm=False, moe=(0,)),
    "windows": Sizes(experts=5, window=3, tasks=3, renormalise=True),
    "nothing kept": Sizes(experts=4, threshold=0.99, moe=(0, 1)),
    "gate ahead": Sizes(ahead=True, moe=(0, 1), dim=20, head_channels=()),
    "gate ahead, no norm": Sizes(ahead=True, norm=False, head_channels=(), class_token=False),
    "until enough": Sizes(experts=5, top_k=4, top_p=0.6, renormalise=True, moe=(0, 1)),
    **{
        f"{dense}, experts {expert}": Sizes(activation=dense, expert_activation=expert)
        for dense, expert in zip(_FUNCTIONS[1::2], _FUNCTIONS[2::2], strict=False)
    },
    "pruned": Sizes(ahead=True, experts=6, top_k=3, threshold=0.2, moe=(0,)),
}
"""Shapes that found, or would find, a mistake each."""


@st.composite
def sizes(draw: st.DrawFn) -> Sizes:
    """Small networks of every shape."""
    patch = draw(st.sampled_from([3, 4, 5, 8]))
    heads = draw(st.integers(1, 3))
    depth = draw(st.integers(1, 2))
    experts = draw(st.integers(1, 5))
    window = draw(st.sampled_from([0, 0, experts, draw(st.integers(1, experts))]))
    top_k = draw(st.integers(1, min(window or experts, 4)))
    styles = ["varied", "one"] + ["starved"] * (top_k < (window or experts))
    norm = draw(st.booleans())
    tasks = draw(st.integers(1, 2))
    base = Sizes(
        patch=patch,
        image_height=patch * draw(st.integers(1, 5)),
        image_width=patch * draw(st.integers(1, 5)),
        channels=draw(st.sampled_from([1, 3])),
        heads=heads,
        dim=heads * 4 * draw(st.integers(1, 6)),
        depth=depth,
        hidden=draw(st.integers(1, 70)),
        experts=experts,
        top_k=top_k,
        expert_hidden=draw(st.integers(1, 50)),
        moe=tuple(n for n in range(depth) if draw(st.booleans())),
        tasks=tasks,
        head_channels=tuple(draw(st.integers(1, 3)) for _ in range(tasks * norm)),
        upscale=draw(st.integers(1, 3)),
        class_token=draw(st.booleans()),
        norm=norm,
        window=window,
        renormalise=draw(st.booleans()),
        threshold=draw(st.sampled_from([0.0, 0.0, 0.1, 0.3, 0.9])),
        top_p=draw(st.sampled_from([1.0, 1.0, 0.3, 0.7])),
        ahead=draw(st.booleans()),
        expert_bits=draw(st.sampled_from(WEIGHT_BITS)),
        activation=draw(st.sampled_from(list(ACTIVATIONS))),
        expert_activation=draw(st.sampled_from(["", *ACTIVATIONS])),
    )
    what = draw(st.sampled_from(["patches", "class", "mean"]))
    base = replace(
        base,
        class_heads=what == "class" and base.class_token,
        mean_heads=what == "mean",
        distilled=base.class_token and draw(st.booleans()),
        registers=draw(st.sampled_from([0, 0, 1, 3])),
        pool_norm=what == "mean" and not norm,
        head_channels=base.head_channels or (2,) * (what == "mean"),
        entry=draw(st.booleans()),
    )
    if what == "patches" and draw(st.booleans()):
        base = replace(
            base,
            decoder_width=draw(st.integers(1, 20)),
            doublings=draw(st.integers(0, 2)),
            head_channels=tuple(draw(st.integers(1, 5)) for _ in range(tasks)),
        )
    return replace(base, style=draw(st.sampled_from(styles)), favourite=base.seen - 1)

"""The accelerator in blocks that are synthesised one by one.

A block is a component of the core with all that is in it, but for the cut-out ones, which are
blocks themselves; what is left of a parent, its glue, is a block too. So the blocks' resources add
up to the whole, but for what synthesis could still have saved across their borders.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from moevit.hw.config import AcceleratorConfig
from moevit.hw.verilog import TOP_NAME, clocks, rtlil

from . import platform

__all__ = ["Block", "blocks", "is_check", "plain_names"]

_MULTIPLIERS = "core.compute.array.dot"
"""What is built of a board's primitives, with their clock."""

_CUT = ("core", "core.compute", _MULTIPLIERS)
"""Components that are blocks of their own beside the children of top, core and compute engine."""
_CHECKS = re.compile(r"(weights|data_engine)\..*\b(fold|(\w+_)?check)$")
"""So are those of the CRCs (hw/lib/crc.py), that it is seen what they take."""


@dataclass(frozen=True)
class Block:
    """``name`` as in the tables; ``module`` its top in ``text`` (RTLIL); ``inner``: modules that
    it holds as black boxes, blocks themselves. ``clock_times``: its fastest clock, of ``clk``'s.
    ``family``: Yosys's name of the primitives that it is mapped to."""

    name: str
    module: str
    text: str
    inner: tuple[str, ...] = ()
    clock_times: int = 1
    family: str = "xcup"


def is_check(name: str) -> bool:
    """Whether a block of this name computes or compares CRCs."""
    return _CHECKS.search(name) is not None


def _modules(text: str) -> Iterator[tuple[str, str]]:
    """Name and text of each module of an RTLIL file, its attributes included."""
    for match in re.finditer(r"(?:^attribute .*\n)*^module (\S+)\n(?:.*\n)*?^end$", text, re.M):
        yield match[1], match[0] + "\n"


def _stub(text: str) -> str:
    """A module as a black box: nothing but its ports."""
    kept = []
    for line in text.splitlines(keepends=True):
        if line.startswith("module "):
            kept += ["attribute \\blackbox 1\n", line]
        elif re.match(r"  wire .*\b(?:input|output) \d+ ", line):
            kept.append(line)
    return "".join(kept) + "end\n"


def plain_names(text: str) -> str:
    """Names without ``$`` and ``[``: Yosys 0.70 adds such endings itself, and fails where it
    makes a name that is there (an assertion on ``count_id``)."""
    return re.sub(
        r"\\[^\s\"]*", lambda m: m[0].replace("$", "~").replace("[", "<").replace("]", ">"), text
    )


def blocks(
    config: AcceleratorConfig, made_of: str, *, family: str = "xcup", ultra: bool = True
) -> list[Block]:
    """All blocks of the accelerator with multipliers ``made_of`` a name of ``boards.PRIMITIVES``.

    Children come before their parents, the whole's glue last. Without ``ultra`` the part has no
    ultra RAM, and memories that would be are block RAM.
    """
    board = platform(made_of)
    fast = max((clock.times for clock in clocks(board)), default=1)
    text = rtlil(config, board)
    if not ultra:
        text = text.replace('attribute \\ram_style "ultra"', 'attribute \\ram_style "block"')
    modules = dict(_modules(plain_names(text)))
    inside = {
        name: [c for c in re.findall(r"^  cell (\\\S+) ", text, re.M) if c in modules]
        for name, text in modules.items()
    }
    top = f"\\{TOP_NAME}"

    def plain(module: str) -> str:
        # Amaranth adds ~number (once $) where a name is taken; it changes with what else there is.
        return re.sub(r"~\d+", "", module).removeprefix(top).removeprefix(".")

    parents = (top, f"{top}.core", f"{top}.core.compute")
    children = {c for m in parents for c in inside[m]}
    cut = {top} | children | {m for m in modules if plain(m) in _CUT or is_check(plain(m))}
    found = []
    for module in reversed(list(modules)):  # children stand behind their parents
        if module not in cut:
            continue
        own, boxes, todo = {}, {}, [module]
        while todo:
            name = todo.pop()
            own[name] = modules[name]
            for child in inside[name]:
                if child in cut:
                    boxes[child] = _stub(modules[child])
                elif child not in own:
                    todo.append(child)
        name = plain(module) or TOP_NAME
        text = "".join(own[n] for n in sorted(own)) + "".join(boxes[n] for n in sorted(boxes))
        times = fast if name == _MULTIPLIERS else 1
        label = name.removeprefix("core.").removeprefix("compute.")
        found.append(Block(label, module, text, tuple(sorted(boxes)), times, family))
    return found

"""The table of damaged programs in RTL (docs/verification.md).

    python bench/flips.py --flips 3000 [--seed 1] [--config small] [--jobs 2] [--json FILE]

Random bits of a program's image are flipped, or the image is cut off, one at a time; a frame is
run in RTL, and a good frame behind it (moevit.sim.flips). Exit status 1 if a picture was wrong
without an error, a frame did not end, the device wrote into the program, or a frame behind was not
right. One in ``--agree`` frames is run by the interpreter too, which must end in the same error.
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from support.rtl import CONFIGS  # type: ignore[import-not-found]  # of the tests

from moevit.compiler import Program, compile_network
from moevit.hw.registers import Error
from moevit.quant.golden import Golden
from moevit.quant.random_network import Sizes, random_images, random_network
from moevit.sim.errors import DeviceError
from moevit.sim.flips import KINDS, Damage, Verdict, apply, damages, run_campaign
from moevit.sim.interpreter import Interpreter
from moevit.sim.rtl import RtlDevice, build_simulator

SIZES = Sizes(experts=5, top_k=2, moe=(1,), expert_hidden=40, hidden=50, tasks=2)
"""Experts in the stream and on demand, dense layers, two tasks."""
_THRESHOLD = 3.0
"""Tokens above which an expert is streamed."""
_PAGE = 4096
_AT_ONCE = 50


def interpreted(program: Program, damage: Damage, image: Any) -> tuple[Error, int]:
    """The error of the same frame in the interpreter, and what DAMAGE would read."""
    start = -(-len(program.memory) // _PAGE) * _PAGE
    output = start + -(-program.image.size // _PAGE) * _PAGE
    memory = np.zeros(output + program.output_bytes, np.uint8)
    memory[: len(program.memory)] = apply(program.memory, damage)
    memory[start : start + program.image.size] = program.image.pack(image)
    base = program.task(damage.task).base
    try:
        Interpreter(program.config).run(
            memory, program_base=base, image_base=start, output_base=output
        )
    except DeviceError as error:
        return error.code, error.damage
    return Error.NONE, 0


def table(rows: dict[str, Counter[str]]) -> str:
    """Markdown: a row a kind of damage."""
    names = ("frames", "caught", "harmless", "silent", "next frame wrong")
    codes = sorted({name for row in rows.values() for name in row} - set(names))
    lines = [
        f"| damage | {' | '.join((*names, *codes))} |",
        "|---" * (1 + len((*names, *codes))) + "|",
    ]
    total = sum(rows.values(), Counter())
    for kind, row in {**rows, "sum": total}.items():
        lines.append(f"| {kind} | {' | '.join(str(row[name]) for name in (*names, *codes))} |")
    return "\n".join(lines)


def count(row: Counter[str], verdict: Verdict) -> None:
    """Add a verdict to its row."""
    row["frames"] += 1
    row["caught"] += verdict.error != Error.NONE
    row["harmless"] += verdict.right
    row["silent"] += verdict.silent
    row["next frame wrong"] += not verdict.next_right
    if verdict.error != Error.NONE:
        row[f"`{verdict.error.name}`"] += 1


def say(text: str, _share: float) -> None:
    """What a first build is doing."""
    sys.stderr.write(f"{text}\n")


def main() -> int:
    """Run the campaign and print the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--flips", type=int, default=3000)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--first", type=int, default=0, help="number of the first flip")
    options.add_argument("--config", choices=sorted(CONFIGS), default="small")
    options.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    options.add_argument("--jobs", type=int, default=1)
    options.add_argument("--agree", type=int, default=20, help="0: without the interpreter")
    options.add_argument("--json", type=Path)
    chosen = options.parse_args()

    config = CONFIGS[chosen.config]
    network = random_network(chosen.seed, SIZES)
    program = compile_network(network, config, threshold=_THRESHOLD)
    image = random_images(chosen.seed, network.geometry)[0]
    wanted = {task: Golden(network).run(image, task).output for task in network.tasks}
    build_simulator(config, say)
    devices = [RtlDevice(config, max_cycles=400_000) for _ in range(max(chosen.jobs, 1))]
    numbers = range(chosen.first, chosen.first + chosen.flips)
    todo = list(damages(program, chosen.seed, numbers, chosen.kinds))
    rows: dict[str, Counter[str]] = {kind: Counter() for kind in chosen.kinds}
    wrong, compared = 0, 0
    for first in range(0, len(todo), _AT_ONCE):
        for verdict in run_campaign(
            devices, program, todo[first : first + _AT_ONCE], image, wanted
        ):
            count(rows[verdict.damage.kind], verdict)
            if verdict.fault:
                wrong += 1
                sys.stderr.write(f"FAULT {verdict}\n")
            one = verdict.damage.kind != "truncation"  # what of much is met first is not said
            if chosen.agree and one and verdict.damage.number % chosen.agree == 0:
                compared += 1
                said = interpreted(program, verdict.damage, image)
                if said != (verdict.error, verdict.place):
                    wrong += 1
                    sys.stderr.write(f"OTHER {said} in the interpreter: {verdict}\n")
        sys.stderr.write(f"{min(first + _AT_ONCE, len(todo))} of {len(todo)}, {wrong} wrong\n")
    for device in devices:
        device.close()
    print(table(rows))
    print(f"\n{compared} frames in the interpreter too; faults and differences: {wrong}")
    if chosen.json:
        data = {"seed": chosen.seed, "config": chosen.config, "wrong": wrong}
        chosen.json.write_text(json.dumps({**data, "rows": {k: dict(v) for k, v in rows.items()}}))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

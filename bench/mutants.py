"""The table of agreement between the proof and the order of the engines (docs/verification.md).

    python bench/mutants.py --networks 1000 --mutants 1000 [--seeds 12] [--json FILE]

Random networks on small configurations are compiled and proven: none may raise an alarm. Mutants of
their programs are judged twice (moevit.sim.mutants). Mutants that are harmful and not found by the
proof, and those that it refuses and no order shows to be harmful, are listed by themselves.
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from support.memories import random_program

from moevit.compiler.check import UnprovenError, verify
from moevit.quant.golden import Golden
from moevit.quant.random_network import random_images
from moevit.sim.mutants import KINDS, judge, mutants


def prove_networks(count: int, say) -> dict[str, int]:
    """Compile ``count`` networks that have a program."""
    found, seed = Counter(), 0
    while found["proven"] + found["alarms"] < count:
        try:
            made = random_program(seed, together=bool(seed // 2 % 2))
            made = made or random_program(seed)
            found["proven" if made else "no program"] += 1
        except UnprovenError as error:
            found["alarms"] += 1
            say(f"ALARM on network {seed}: {error}")
        seed += 1
        if seed % 100 == 0:
            say(f"networks below {seed}: {dict(found)}")
    return dict(found)


def judge_mutants(
    count: int, seeds: int, first: int, more: int, largest: int, say
) -> dict[str, Counter]:
    """``count`` mutants of programs, one of each kind from every network."""
    table = {kind: Counter() for kind in KINDS}
    seed, done = first, 0
    while done < count:
        made = random_program(seed)
        seed += 1
        if made is None:
            continue
        network, program = made
        if max(program.header(name).code_count for name in program.tasks) > largest:
            continue
        rng = np.random.default_rng([seed, 7])
        image = random_images(seed, network.geometry)[0]
        task = network.tasks[int(rng.integers(len(network.tasks)))]
        want = Golden(network).run(image, task).output
        say(f"network {seed - 1}, {done} mutants")
        for mutant in mutants(program, task, rng):
            verdict = judge(mutant, image, want, range(seeds))
            quiet = not verdict.harm and not verdict.other
            if more > 1 and verdict.alarms and quiet:  # look harder
                verdict = judge(mutant, image, want, range(seeds, more * seeds))
            row = table[mutant.kind]
            row["all"] += 1
            done += 1
            alarm = bool(verdict.alarms)
            row["alarm"] += alarm
            row["harmful"] += bool(verdict.harm)
            row["found"] += alarm and bool(verdict.harm)
            row["missed"] += not alarm and bool(verdict.harm)
            row["other"] += verdict.other and not verdict.harm
            row["other found"] += verdict.other and not verdict.harm and alarm
            row["no harm"] += alarm and not verdict.harm and not verdict.other
            kind = verdict.alarms[0] if alarm else ""
            if alarm and not verdict.harm and not verdict.other:
                row[f"no harm: {kind}"] += 1
                first = verify(mutant.program).findings[0][1]
                say(f"no harm shown: network {seed - 1}, {task}, {mutant.what}: {first.message}")
            if verdict.harm and not alarm:
                say(f"MISSED: network {seed - 1}, {task}, {mutant.kind}, {mutant.what}: {verdict}")
            if verdict.other and not alarm:
                say(f"other: network {seed - 1}, {task}, {mutant.kind}, {mutant.what}")
    return table


def main() -> None:
    """Run both parts and print the tables."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--networks", type=int, default=1000)
    options.add_argument("--mutants", type=int, default=1000)
    options.add_argument("--seeds", type=int, default=12)
    options.add_argument(
        "--more", type=int, default=1, help="times the seeds, where none shows harm"
    )
    options.add_argument("--largest", type=int, default=300, help="instructions of a program")
    options.add_argument("--first", type=int, default=0)
    options.add_argument("--json", type=Path)
    chosen = options.parse_args()

    def say(text: str) -> None:
        sys.stderr.write(text + "\n")

    proven = prove_networks(chosen.networks, say)
    print(f"networks: {proven}")
    table = judge_mutants(
        chosen.mutants, chosen.seeds, chosen.first, chosen.more, chosen.largest, say
    )
    names = ("all", "alarm", "harmful", "found", "missed", "other", "other found", "no harm")
    print("| kind | " + " | ".join(names) + " |")
    rows = {**table, "sum": sum(table.values(), Counter())}
    for kind, row in rows.items():
        print(f"| {kind} | " + " | ".join(str(row[name]) for name in names) + " |")
    if chosen.json:
        chosen.json.write_text(
            json.dumps({"networks": proven, "mutants": {k: dict(v) for k, v in rows.items()}})
        )


if __name__ == "__main__":
    main()

"""What `moevit verify` prints of campaigns: moevit.bench.campaign runs them."""

import json
import shlex
from pathlib import Path
from typing import Any

import typer

from moevit.bench.campaign import campaign
from moevit.bench.campaign.cases import Case
from moevit.bench.campaign.cover import cover
from moevit.bench.campaign.running import TooLargeError
from moevit.bench.campaign.shrink import shrink
from moevit.bench.campaign.soak import soak as run_soak
from moevit.errors import CheckFailedError, UserError
from moevit.files import writable, write_json
from moevit.quant.typing import Report
from moevit.sim.plain_paths import ready_to_build

from .progress import progress

__all__ = ["coverage", "one", "random", "soak"]

_SHOWN = 12
_SHRUNK = 3
"""Failures of a run that are shrunk: more have the same cause, as a rule."""


def random(
    networks: int,
    seed: int,
    first: int,
    machines: int | None,
    jobs: int,
    output: Path,
    as_json: bool,
) -> None:
    """``--random``: runs a campaign, and says what it found."""
    ready_to_build()
    writable(output)
    plan = campaign.Plan(
        seed=seed, networks=networks, first=first, machines=machines or campaign.MACHINES
    )
    with progress("moevit verify", quiet=as_json) as report:
        with campaign.local_processes(jobs) as executor:
            found, failures = campaign.run(plan, output, executor, report)
        for failure in failures:
            failure["again"] = _again(plan, failure)
        for failure in failures[:_SHRUNK]:
            if failure["alone"]:
                failure["smallest"] = _smallest(failure["case"], report)
    if as_json:
        typer.echo(json.dumps({**found, "new_failures": failures, "record": str(output)}, indent=2))
    else:
        typer.echo(_text(found))
        typer.echo(f"record: {output}")
        for failure in failures:
            typer.echo(f"network {failure['number']}: {failure['failure']}")
            typer.echo(f"  again: {failure['again']}")
            if "smallest" in failure:
                typer.echo(f"  smallest: {failure['smallest']}")
    if found["failures"]:
        raise CheckFailedError(
            f"{len(found['failures'])} of {found['networks']:,} networks differ, see {output}"
        )


def _again(plan: campaign.Plan, failure: dict[str, Any]) -> str:
    """The command that shows a failure again: with those before it, where it needs them."""
    number, count = failure["number"], 1
    if not failure["alone"]:
        start = max(number // campaign.BATCH * campaign.BATCH, plan.first)
        number, count = start, number + 1 - start
    also = "" if plan.machines == campaign.MACHINES else f" --machines {plan.machines}"
    where = f"-o again-{failure['number']}.jsonl"
    return f"moevit verify --random {count} --seed {plan.seed} --first {number}{also} {where}"


def _smallest(text: str, report: Report) -> str:
    case = shrink(Case.from_json(text), lambda case: campaign.run_case(case).failure, report=report)
    return f"moevit verify --case {shlex.quote(case.to_json())}"


def _text(found: dict[str, Any]) -> str:
    points, pairs = found["points"], found["pairs"]
    missing = found["missing_pairs"]
    lines = [
        f"{found['networks']:,} networks on {len(found['by_machine'])} machines, "
        f"{found['frames']:,} frames, {found['cycles']:,} cycles: "
        + (f"{len(found['failures'])} differ" if found["failures"] else "none differs"),
        f"exercised: {len(points) - len(found['holes'])} of {len(points)} points, "
        f"{pairs - len(missing):,} of {pairs:,} pairs of features",
    ]
    for what, names in (("not exercised", found["holes"]), ("pairs not met", missing)):
        if names:
            more = f"; {len(names) - _SHOWN:,} more (--json)" if len(names) > _SHOWN else ""
            lines.append(f"{what}: {'; '.join(names[:_SHOWN])}{more}")
    return "\n".join(lines)


def coverage(
    networks: int,
    seed: int,
    first: int,
    machines: int | None,
    jobs: int,
    output: Path,
    toggles: bool,
    as_json: bool,
) -> None:
    """``--coverage``: a campaign that counts lines, and what never ran."""
    ready_to_build()
    writable(output)
    plan = campaign.Plan(
        seed=seed, networks=networks, first=first, machines=machines or campaign.MACHINES
    )
    with (
        progress("moevit verify", quiet=as_json) as report,
        campaign.local_processes(jobs) as executor,
    ):
        found = cover(plan, executor, toggles=toggles, report=report)
    write_json(output, found)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for what, ran, every in (
        ("lines", found["lines_run"], found["lines"]),
        ("toggles", found["toggled"], found["toggles"]),
    ):
        if every:
            typer.echo(f"{what}: {ran:,} of {every:,}, {ran / every:.2%}")
    for line in found["missing"][:_SHOWN]:
        typer.echo(f"never: {line['component']}, {line['signal']}: {line['line']}")
    typer.echo(f"all of them: {output}")


def one(text: str, as_json: bool) -> None:
    """``--case``: one case, on a simulator of its own."""
    ready_to_build()
    case = Case.from_json(text)
    with progress("moevit verify", quiet=as_json) as report:
        try:
            done = campaign.run_case(case, report)
        except TooLargeError as error:
            raise UserError(f"--case: {error}") from None
    if as_json:
        data = {"frames": done.frames, "cycles": done.cycles, "failure": done.failure or None}
        typer.echo(json.dumps(data, indent=2))
    elif not done.failure:
        typer.echo(f"{done.frames} frames, {done.cycles:,} cycles: none differs")
    if done.failure:
        raise CheckFailedError(f"the case differs: {done.failure}")


def soak(frames: int, seed: int, as_json: bool) -> None:
    """``--soak``: frames without a restart."""
    ready_to_build()
    with progress("moevit verify", quiet=as_json) as report:
        found = run_soak(frames, seed, report=report)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    done = ", ".join(f"{count:,} {name}" for name, count in sorted(found["done"].items()))
    typer.echo(f"{found['frames']:,} frames, every good one bit exact: {done}")
    typer.echo(
        f"memory of the process: {found['bytes_after_a_tenth'] >> 20} MiB after a tenth, "
        f"{found['bytes_grown'] / 2**20:+.1f} MiB at the end"
    )

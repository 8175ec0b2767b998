"""`moevit build`."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from moevit.boards.targets import Board, OpenBoard, open_board
from moevit.boards.targets import board as find_board
from moevit.boards.targets import names as board_names
from moevit.files import readable, writable
from moevit.hw.config import AcceleratorConfig
from moevit.hw.config import preset as hardware_preset

from ..errors import CheckFailedError, UserError
from ..options import Json
from ..progress import Report, progress

__all__ = ["command"]

BoardName = Annotated[
    str | None,
    typer.Option(
        "--board", metavar="NAME", help=f"{', '.join(board_names())}.", show_default=False
    ),
]
Folder = Annotated[
    Path | None,
    typer.Option("-o", "--output", metavar="DIR", help="Folder of the build.", show_default=False),
]
Collect = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Read the reports and results of a build that ran elsewhere, and bundle it.",
        show_default=False,
    ),
]
PresetName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Hardware preset; the first that fits the board if not given.",
        show_default=False,
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Configuration as JSON instead of a preset, as `moevit verilog` writes it.",
        show_default=False,
    ),
]
Programs = Annotated[
    list[Path] | None,
    typer.Option(
        "--program",
        metavar="FILE",
        help="Program for the bundle, of `moevit compile`; may be given several times.",
        show_default=False,
    ),
]
Jobs = Annotated[
    int, typer.Option(metavar="N", min=1, help="Strategies and blocks worked on at a time.")
]
Allow = Annotated[
    bool,
    typer.Option(
        "--allow-timing-failure",
        help="Bundle a bitstream that missed its timing; the bundle says so for good.",
    ),
]
Inputs = Annotated[bool, typer.Option("--inputs", help="Write the inputs and stop, Vivado or not.")]
Check = Annotated[
    bool,
    typer.Option("--check", help="Run the scripts in tclsh against a stand-in for Vivado, too."),
]
NoEstimate = Annotated[
    bool, typer.Option("--no-estimate", help="Do not compare with an estimate by Yosys.")
]

Clock = Annotated[
    float | None,
    typer.Option(
        metavar="MHZ",
        help="Clock of a board with open tools; its own target if not given.",
        show_default=False,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=0, help="Seed of nextpnr's placement; 1 if not given.", show_default=False
    ),
]


def command(
    board: BoardName = None,
    output: Folder = None,
    collect: Collect = None,
    preset: PresetName = None,
    config: Config = None,
    program: Programs = None,
    jobs: Jobs = max(1, len(os.sched_getaffinity(0)) // 2),
    allow_timing_failure: Allow = False,
    inputs: Inputs = False,
    check: Check = False,
    no_estimate: NoEstimate = False,
    clock: Clock = None,
    seed: Seed = None,
    as_json: Json = False,
) -> None:
    """Build a bitstream for a board, and the bundle that runs it there.

    With Vivado on the path it synthesises, tries several strategies, reads the reports and writes
    the bundle. Without, it writes everything that Vivado needs and says how to go on; --collect
    reads what came back. A bitstream that misses its timing is an error. docs/build.md has the
    whole way.
    """
    if collect is not None:
        if board or output or preset or config or program or inputs or check:
            raise UserError("--collect: takes the folder alone; the build's own options are in it")
        with progress("moevit build", quiet=as_json) as tell:
            _finish(collect, allow_timing_failure, not no_estimate, jobs, as_json, tell)
        return
    if board is None or output is None:
        raise UserError("--board and --output: expected both, or --collect")
    if (open_target := open_board(board)) is not None:
        for given, option in ((check, "--check"), (inputs, "--inputs"), (program, "--program")):
            if given:
                raise UserError(f"{option}: is of a vendor's flow, which {board} does not have")
        chosen = _configuration(open_target, preset, config, [])
        writable(output, folder=True)
        with progress("moevit build", quiet=as_json) as tell:
            _build_open(
                output, open_target, chosen, clock, seed, allow_timing_failure, as_json, tell
            )
        return
    if clock is not None or seed is not None:
        raise UserError("--clock and --seed: are of boards with open tools")
    target = find_board(board)
    chosen = _configuration(target, preset, config, program or [])
    writable(output, folder=True)

    from moevit.boards.bitstream import inputs as build_inputs
    from moevit.boards.bitstream.vivado import find

    vivado = None if inputs else find()
    with progress("moevit build", quiet=as_json) as tell:
        about = build_inputs.write_inputs(
            output, target, chosen, programs=tuple(program or []), jobs=jobs, progress=tell
        )
        if check:
            _check(output)
        if vivado is not None:
            notes = _run(output, vivado, tell)
            _finish(output, allow_timing_failure, not no_estimate, jobs, as_json, tell, notes)
            return
    line = f"cd {output / 'vivado'} && {about['command']}"
    if as_json:
        print(json.dumps({**about, "folder": str(output), "next": line}, indent=2))
        return
    size = chosen.array
    print(
        f"{output}: inputs for {target.title}, {chosen.name} "
        f"({size.tokens} x {size.inputs} x {size.outputs}) at {about['clocks']['clk']:g} MHz"
    )
    print(f"to build: {line}; then: moevit build --collect {output}")


def _configuration(
    target: Board | OpenBoard, preset: str | None, config: Path | None, programs: list[Path]
) -> AcceleratorConfig:
    if preset is not None and config is not None:
        raise UserError("--preset and --config: expected one of them")
    if config is not None:
        text = readable(config, "a configuration in JSON").read_text()
        try:
            about = json.loads(text)
            chosen = AcceleratorConfig.from_dict(about.get("config", about))
        except (ValueError, AttributeError) as error:
            raise UserError(f"{config}: {error}") from None
    else:
        chosen = hardware_preset(preset or target.presets[0])
    if programs:
        from moevit.compiler import Program

        loaded = [
            Program.load(readable(path, "a program of `moevit compile`")) for path in programs
        ]
        if preset is None and config is None:
            chosen = loaded[0].config
        for path, found in zip(programs, loaded, strict=True):
            if found.config.hash != chosen.hash:
                raise UserError(
                    f"{path}: is for configuration {found.config.hash:#018x}, "
                    f"the build's is {chosen.hash:#018x} ({chosen.name})"
                )
        if len({path.name for path in programs}) < len(programs):
            raise UserError("--program: two files of the same name")
    return chosen


def _build_open(
    output: Path,
    target: OpenBoard,
    chosen: AcceleratorConfig,
    clock: float | None,
    seed: int | None,
    allow: bool,
    as_json: bool,
    tell: Report,
) -> None:
    """By Yosys and nextpnr, in this process's children."""
    from moevit.boards.lattice.flow import FlowError, build

    try:
        about = build(
            output, target, chosen, mhz=clock or target.clock_mhz,
            seed=1 if seed is None else seed, allow_timing=allow, progress=tell,
        )  # fmt: skip
    except FlowError as error:
        raise CheckFailedError(str(error)) from None
    found = about["result"]
    if as_json:
        print(json.dumps(about, indent=2))
    else:
        shown = Table(title=f"{chosen.name} on {target.title}", title_justify="left")
        for column, text in enumerate(("cells", "used", "of")):
            shown.add_column(text, justify="right" if column else "left")
        for kind, used in found["used"].items():
            shown.add_row(kind, f"{used:,}", f"{found['available'][kind]:,}")
        Console().print(shown)
        seconds = sum(about["seconds"].values())
        print(
            f"nextpnr: {found['reached_mhz']:g} MHz of {found['clock_mhz']:g} wanted; "
            f"{seconds / 60:.0f} minutes"
        )
        if "bitstream" in about:
            print(f"bitstream: {output / about['bitstream']}")
    if not found["met"] and not allow:
        raise CheckFailedError(
            f"{output}: timing is not met: {found['reached_mhz']:g} MHz is reached, "
            f"{found['clock_mhz']:g} wanted"
        )


def _check(output: Path) -> None:
    from moevit.boards.bitstream.check import CheckError, check

    try:
        check(output)
    except CheckError as error:
        raise CheckFailedError(str(error)) from None
    typer.echo(f"{output}: the scripts pass the stand-in", err=True)


def _run(output: Path, vivado: object, tell: Report) -> tuple[str, ...]:
    from moevit.boards.bitstream.flow import read_about, write_about
    from moevit.boards.bitstream.vivado import RunError, run

    try:
        return run(output / "vivado", vivado, tell)  # type: ignore[arg-type]
    except RunError as error:
        about, _, _ = read_about(output)
        write_about(output, about | {"status": "failed", "failure": str(error)})
        raise CheckFailedError(str(error)) from None


def _finish(
    folder: Path,
    allow: bool,
    guess: bool,
    jobs: int,
    as_json: bool,
    tell: Report,
    notes: tuple[str, ...] = (),
) -> None:
    from moevit.boards.bitstream.flow import collect
    from moevit.boards.bitstream.judge import table

    found = collect(folder, allow_timing=allow, guess=guess, jobs=jobs, notes=notes, progress=tell)
    if as_json:
        print(json.dumps(found.about, indent=2))
    else:
        heading, *rows = table(found.judgement)
        shown = Table(title="as built, and as estimated before", title_justify="left")
        for column, text in enumerate(heading):
            shown.add_column(text, justify="right" if column else "left")
        for row in rows:
            shown.add_row(*row)
        Console().print(shown)
        for note in found.notes:
            print(f"note: {note}")
        timing, power = found.judgement.timing, found.judgement.power
        print(
            f"Vivado {found.judgement.version}: slack {timing.wns:+.3f} ns (setup), "
            f"{timing.whs:+.3f} ns (hold); {power.total:g} W estimated ({power.confidence.lower()})"
        )
        if found.bundle is not None:
            print(f"bundle: {found.bundle}")
    if found.failure:
        raise CheckFailedError(f"{folder}: timing is not met: {found.failure}")

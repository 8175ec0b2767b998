"""``python3 -m moevit_driver``: what a board does without moevit. See docs/boards.md."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from moevit.quant.dial import Dial

from .bundle import MANIFEST, Bundle
from .device import Accelerator
from .errors import BundleError, DriverError
from .pictures import load_image, paint, write_png
from .program import Program
from .selftest import selftest
from .session import TRANSPORTS, open_accelerator

__all__ = ["main"]

_TOP_P = "experts of a token by falling score until their scores add up to P"
_MIN_SCORE = "only experts of a score above S"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="moevit_driver", description="Runs programs on moevit's accelerator."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    here = Path(__file__).resolve().parent.parent
    for name, text in (
        ("verify", "check the bundle's files"),
        ("info", "say what is on the board"),
        ("selftest", "run the bundle's golden cases and measure frames a second"),
        ("run", "run tasks on an image"),
    ):
        one = commands.add_parser(name, help=text)
        default = here if (here / MANIFEST).is_file() else Path(".")
        one.add_argument("--bundle", type=Path, default=default, metavar="DIR")
        one.add_argument("--json", action="store_true", help="for machines")
        if name == "verify":
            continue
        one.add_argument("--transport", default="auto", help=", ".join(TRANSPORTS))
        one.add_argument("--time-out", type=float, default=2.0, metavar="S", help="of a frame")
        one.add_argument("--poll", action="store_true", help="do not wait for the interrupt")
        if name == "selftest":
            one.add_argument("--frames", type=int, default=100, metavar="N", help="to measure")
        if name == "run":
            one.add_argument("image", type=Path, help=".npy, or a picture where Pillow is")
            one.add_argument("--program", type=Path, help="the bundle's first by default")
            one.add_argument("--task", help="all by default")
            one.add_argument("--top-p", type=float, metavar="P", help=_TOP_P)
            one.add_argument("--min-score", type=float, metavar="S", help=_MIN_SCORE)
            one.add_argument("--top-k", type=int, metavar="K", help="at most K experts a token")
            one.add_argument("-o", "--output", type=Path, default=Path("out"), metavar="DIR")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 the board failed or differs, 2 a mistake in what was given."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except KeyboardInterrupt:
        print("moevit_driver: error: interrupted", file=sys.stderr)
        return 130
    except DriverError as error:
        print(f"moevit_driver: error: {error}", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        text = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else error
        print(f"moevit_driver: error: {text}", file=sys.stderr)
        return 2


def _run(options: argparse.Namespace) -> int:
    bundle = Bundle.read(options.bundle)
    about = bundle.manifest
    if not options.json:
        print(
            f"bundle {bundle.root}: {about.board}, {about.config_name} {about.config_hash}, "
            f"{about.clock_mhz:g} MHz, {len(bundle.files)} files whole"
        )
        for note in about.notes:
            print(f"note: {note}")
        if about.timing is not None and not about.timing.met:
            print(f"warning: the build did not meet timing (slack {about.timing.wns_ns} ns)")
    if options.command == "verify":
        return 0
    with open_accelerator(
        bundle, options.transport, time_out=options.time_out, poll=options.poll
    ) as accelerator:
        identity, transport = accelerator.identity, accelerator.transport
        if not options.json:
            print(
                f"{transport.name}: configuration {identity.config_hash:016x}, ISA "
                f"{identity.isa_version}, {'interrupt' if transport.interrupt else 'polled'}"
            )
        if options.command == "info":
            return 0
        if options.command == "selftest":
            return _selftest(options, bundle, accelerator)
        return _image(options, bundle, accelerator)


def _selftest(options: argparse.Namespace, bundle: Bundle, accelerator: Accelerator) -> int:
    if not bundle.cases:
        raise BundleError(f"{bundle.root}: the bundle has no golden cases")
    say = (lambda _line: None) if options.json else print
    report = selftest(bundle, accelerator, frames=options.frames, say=say)
    if options.json:
        print(json.dumps(report.to_dict(), indent=1))
    else:
        if report.interrupts_lost:
            print(f"warning: {report.interrupts_lost} interrupts were lost; try --poll")
        print("self-test passed" if report.passed else "self-test FAILED")
    return 0 if report.passed else 1


def _image(options: argparse.Namespace, bundle: Bundle, accelerator: Accelerator) -> int:
    path = options.program or next(iter(bundle.all("program")), None)
    if path is None:
        raise BundleError(f"{bundle.root}: the bundle has no program")
    program = Program.load(path)
    accelerator.load(program)
    dial = Dial.of(top_p=options.top_p, min_score=options.min_score, top_k=options.top_k)
    dial.check(program.dial)
    image = load_image(options.image, program.image)
    results = {}
    options.output.mkdir(parents=True, exist_ok=True)
    for task in [options.task] if options.task else program.tasks:
        result = accelerator.run(image, task, dial=dial)
        for name, output in result.outputs.items():
            target = options.output / f"{options.image.stem}-{name}.npy"
            np.save(target, output)
            picture = paint(output, program.entry(task).outputs[name])
            if picture is not None:
                target = target.with_suffix(".png")
                write_png(target, picture)
            results[name] = {
                "file": str(target),
                "cycles": result.cycles,
                "seconds": result.seconds,
            }
            if not options.json:
                print(
                    f"{name}: {target}  {result.cycles:,} cycles  "
                    f"{1 / result.seconds:,.1f} frames/s by the "
                    f"{accelerator.transport.clock}, transfers included"
                )
    if options.json:
        print(json.dumps(results, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())

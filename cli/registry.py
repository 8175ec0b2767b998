"""The commands by name, loaded when they are called and not before.

A command is a module `moevit.cli.commands.<name>` with a function `command` annotated for typer, or
with a typer application `app` where it has commands of its own. Hyphens become underscores, and
one is put behind a word of Python's own. The line that `moevit --help` shows stands here, so that
listing the commands imports none of them.
"""

import functools
import importlib
import importlib.util
import keyword
import warnings
from typing import Any

import typer
import typer.core
import typer.main

__all__ = ["COMMANDS", "LazyGroup"]

#: Name and line of help, in the order of the help page: the way of an image first.
COMMANDS: dict[str, str] = {
    "run": "Run tasks on images and compare the device with the golden model.",
    "train": "Train a model on rendered scenes or a data set.",
    "init": "Make a model with random weights.",
    "import": "Make a checkpoint of a model of M3ViT, Edge-MoE or timm.",
    "serve": "Serve a page and a JSON API: pictures, videos, a camera.",
    "eval": "Score a model on validation images, with any backend.",
    "quantize": "Calibrate a trained model and make it integer.",
    "compile": "Make a program for the accelerator from a quantised model.",
    "export-onnx": "Write a model as ONNX, float or quantised.",
    "verify": "Prove that a program computes the same in every order of the engines.",
    "disasm": "List a program: instructions, shapes, addresses, expert schedule.",
    "report": "Write one page that explains a frame: predictions, cycles, experts, errors.",
    "estimate": "Predict cycles, utilisation and bytes of a program.",
    "resources": "Count LUT, FF, DSP and RAM on the board, and levels of logic.",
    "build": "Build a bitstream for a board, or the inputs for one.",
    "verilog": "Write the accelerator's Verilog.",
    "deploy": "Copy a bundle to a board over ssh and run its self-test there.",
    "bench": "Measure everything that the documentation quotes.",
    "doctor": "Say what is installed, at which version, and what is missing.",
}

_PACKAGE = "moevit.cli.commands"


@functools.cache
def _load(name: str) -> Any:
    module = importlib.import_module(_module(name))
    if hasattr(module, "app"):
        return typer.main.get_command(module.app)
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(name, help=None)(module.command)
    return typer.main.get_command(app)


class LazyGroup(typer.core.TyperGroup):
    """The group of all commands. Only the one that is called is imported."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [name for name in COMMANDS if _exists(name)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A stand-in with name and help, enough to list, complete and suggest."""
        if cmd_name not in COMMANDS or not _exists(cmd_name):
            return None
        return typer.core.TyperCommand(cmd_name, help=COMMANDS[cmd_name])

    def invoke(self, ctx: Any) -> Any:
        """As typer, but Ctrl-C is passed on; typer would only leave, without a word."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            # Of a design that is dropped half made Amaranth would tell at length.
            warnings.filterwarnings("ignore", message=".*created but never used")
            raise typer.Abort from None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, command and _load(command.name), rest


def _module(name: str) -> str:
    plain = name.replace("-", "_")
    return f"{_PACKAGE}.{plain}{'_' * keyword.iskeyword(plain)}"


def _exists(name: str) -> bool:
    return importlib.util.find_spec(_module(name)) is not None

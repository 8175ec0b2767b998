"""Quantised networks: every integer of a model, and the program that a preset gets of it."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moevit import compiler
from moevit.compiler.plan.schedule import DEFAULT_THRESHOLD
from moevit.model.blank import blank_network as make_blank
from moevit.model.config import ModelConfig
from moevit.model.config import preset as size_preset
from moevit.quant.errors import UserError
from moevit.quant.io import load_network as read_network
from moevit.quant.io import save_network
from moevit.quant.network import Network as Integers

from .configurations import DEFAULT_PRESET, PresetLike, configuration
from .errors import documented
from .files import readable, writable
from .programs import Program
from .quantising import DEFAULT_EXPERTS, expert_bits
from .tasks import ALL_TASKS, selected

if TYPE_CHECKING:
    from .models import Model

__all__ = ["Network", "blank_network", "load_network"]

_COMPARED = 8  # test scenes that an exported graph is compared on


class Network:
    """A quantised network. Made by :meth:`moevit.Model.quantize` or :func:`load_network`.

    `integers` is what the layers below work with. `model` is the float model that it was made
    from, where that is at hand.
    """

    def __init__(
        self, integers: Integers, *, path: Path | None = None, model: Model | None = None
    ) -> None:
        self.integers, self.path, self.model = integers, path, model

    def __repr__(self) -> str:
        return f"<moevit.Network {self.name}, tasks {', '.join(self.tasks)}>"

    @property
    def name(self) -> str:
        """The file, the float model's name, or the word network."""
        if self.path is not None:
            return str(self.path)
        return "network" if self.model is None else self.model.name

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of its tasks."""
        return tuple(self.integers.tasks)

    @functools.cached_property
    def config(self) -> ModelConfig:
        """The configuration of the model that it was quantised from.

        Raises
        ------
        UserError
            Where it does not say.
        """
        if self.model is not None:
            return self.model.config
        return model_config(self.integers.meta.get("model"), self.name, "quantised")

    def compile(
        self,
        preset: PresetLike = DEFAULT_PRESET,
        tasks: str | Sequence[str] = ALL_TASKS,
        *,
        threshold: float = DEFAULT_THRESHOLD,
        fetched: int = 0,
        all_tasks: bool = False,
    ) -> Program:
        """The program of some tasks for an accelerator.

        Parameters
        ----------
        preset:
            A preset's name, a JSON file or an :class:`moevit.AcceleratorConfig`.
        threshold:
            An expert is streamed if calibration sent it more than so many tokens an image, and
            fetched on demand otherwise.
        fetched:
            So many of the least used experts of each layer are fetched whatever calibration says.
        all_tasks:
            Also one run of all tasks of an image (:meth:`moevit.Device.run_all`).

        Raises
        ------
        UserError
            For an unknown preset or task, and a network that the accelerator cannot hold, naming
            each buffer, the bytes needed and there, and the change that would do.
        """
        config, chosen = configuration(preset), selected(tasks, self.tasks)
        with documented():
            program = compiler.compile_network(
                self.integers,
                config,
                chosen,
                threshold=threshold,
                fetched=fetched,
                together=all_tasks,
            )
        return Program(program, network=self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the network as safetensors, whole or not at all."""
        writable(Path(path))
        with documented():
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            save_network(self.integers, path)

    def export_onnx(
        self, path: str | os.PathLike[str], tasks: str | Sequence[str] = ALL_TASKS
    ) -> dict[str, Any]:
        """Writes the integers as ONNX in QDQ form; returns how far onnxruntime is from them."""
        from moevit.model.export.qdq import export_qdq
        from moevit.model.scenes.render import scene

        g = self.integers.geometry
        images = [scene("test", n, g.image_height, g.image_width).image for n in range(_COMPARED)]
        with documented():
            chosen = selected(tasks, self.tasks)
            return export_qdq(self.integers, Path(path), chosen, images=np.stack(images))


def model_config(about: Any, name: str, made: str) -> ModelConfig:
    """The model's configuration from the metadata of what was `made` from it."""
    if about is None:
        raise UserError(f"{name}: does not say which model it was {made} from")
    try:
        return ModelConfig.from_json(json.dumps(about))
    except ValueError as error:
        raise UserError(f"{name}: {error}") from None


def blank_network(model: ModelConfig | str = "nano", *, experts: str = DEFAULT_EXPERTS) -> Network:
    """A network of a size without weights, for :func:`moevit.estimate`: what a model costs depends
    on its sizes and its routing. Every task's tokens go to all experts evenly."""
    with documented():
        config = size_preset(model) if isinstance(model, str) else model
        return Network(make_blank(config, expert_bits=expert_bits(experts)))


def load_network(path: str | os.PathLike[str]) -> Network:
    """The network in a file of `moevit quantize` or :meth:`Network.save`.

    Raises
    ------
    UserError
        Naming the file, if it is missing, damaged or something else.
    """
    chosen = readable(Path(path), "a network of `moevit quantize`")
    with documented():
        return Network(read_network(chosen), path=chosen)

"""A model, its network and its program on one accelerator, each made when it is first asked for."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moevit.hw.config import AcceleratorConfig
from moevit.model.config import ModelConfig
from moevit.quant.errors import UserError
from moevit.quant.network import Network as Integers
from moevit.quant.typing import Report, silent
from moevit.sim.pool import DevicePool

from .devices import open_pool
from .models import Model
from .networks import Network, check_fit
from .programs import Program
from .quantising import DEFAULT_EXPERTS, DEFAULT_METHOD
from .sources import RENDERED, SCENES, ImageSource

if TYPE_CHECKING:
    from moevit.sim.trace.recording import Recorder

__all__ = ["Workload"]


def _unheard(_note: str) -> None:
    pass


class Workload:
    """What a command works on.

    Parameters
    ----------
    subject:
        A float model, which is quantised when its network is asked for; a quantised network; or a
        program, with which nothing can be compared.
    config:
        The accelerator; a program's own.
    experts, method:
        How a float model is quantised, as :meth:`moevit.Model.quantize` has them.
    source:
        Images that it is calibrated on and scored on.
    report, note:
        Told of the progress, and of what people should know.
    """

    def __init__(
        self,
        subject: Model | Network | Program,
        config: AcceleratorConfig,
        *,
        experts: str = DEFAULT_EXPERTS,
        method: str = DEFAULT_METHOD,
        source: ImageSource = RENDERED,
        report: Report = silent,
        note: Callable[[str], None] = _unheard,
    ) -> None:
        self.subject, self.config = subject, config
        self.experts, self.method, self.source = experts, method, source
        self.report, self.note = report, note

    @property
    def name(self) -> str:
        """The file of the model, or what else there is to call it."""
        subject = self.subject
        return str(subject.path or "program") if isinstance(subject, Program) else subject.name

    @property
    def path(self) -> Path | None:
        """The file that was given, if any."""
        return self.subject.path

    @property
    def quantised(self) -> bool:
        """Whether there is no float model."""
        return not isinstance(self.subject, Model)

    @property
    def model(self) -> Model:
        """The float model.

        Raises
        ------
        UserError
            Where only a quantised network or a program is there.
        """
        if not isinstance(self.subject, Model):
            raise UserError(f"{self.name}: is quantised; the float model needs a checkpoint")
        return self.subject

    @property
    def model_config(self) -> ModelConfig:
        """The model's configuration; that of a quantised network is the one it was made from."""
        if isinstance(self.subject, Program):
            return self.subject.model_config
        return self.subject.config

    @functools.cached_property
    def quantised_network(self) -> Network:
        """The quantised network: the given one, or the model's, from the cache."""
        if isinstance(self.subject, Network):
            return self.subject
        if isinstance(self.subject, Program):
            raise UserError(f"{self.name}: is a program, which does not hold its network")
        self.remark()
        return self.subject.quantize(
            self.source, experts=self.experts, method=self.method, report=self.report
        )

    @property
    def network(self) -> Integers:
        """The integers of the quantised network."""
        return self.quantised_network.integers

    @property
    def reference(self) -> Integers | None:
        """The network whose integers a device must give, where that is known."""
        return None if isinstance(self.subject, Program) else self.network

    @functools.cached_property
    def program(self) -> Program:
        """All tasks of the network, compiled for the accelerator; or the given program."""
        return self.subject if isinstance(self.subject, Program) else self.compile()

    def compile(self, tasks: Sequence[str] | str = "all", **options: Any) -> Program:
        """The program of some tasks; `options` of :meth:`moevit.Network.compile`."""
        if isinstance(self.subject, Model):  # before it is calibrated, which takes long
            check_fit(self.subject.config, self.config)
        return self.quantised_network.compile(self.config, tasks, **options)

    def with_program(self, program: Program) -> Workload:
        """The same with a program of this network that was compiled before.

        Raises
        ------
        UserError
            Where the program is of another network, as far as one can see.
        """
        network, linked = self.network, program.linked
        if network.geometry != linked.geometry:
            raise UserError(
                f"{program.path}: is of a model with {linked.geometry}, not {network.geometry}"
            )
        for task in program.tasks:
            if task not in network.tasks:
                raise UserError(
                    f"{program.path}: task {task} is none of {', '.join(network.tasks)}"
                )
        self.config = program.config
        self.__dict__["program"] = program  # in place of the one that it would compile
        return self

    def remark(self) -> None:
        """Notes that a model of other images is about to be calibrated on scenes."""
        trained = self.model.trained_on
        if not self.source.is_default or trained == SCENES:
            return
        if trained is None:
            self.note(
                f"{self.name} is imported and is calibrated on rendered scenes, which may be "
                "unlike its own images; --calibration PATH takes better ones"
            )
            return
        self.note(
            f"{self.name} was trained on {trained} and is calibrated on rendered "
            f"scenes; --data {trained} --root DIR or --calibration PATH takes better ones"
        )

    def pool(
        self,
        backend: str,
        count: int,
        on_cycles: Callable[[int], None],
        report: Report | None = None,
        recorder: Recorder | None = None,
    ) -> DevicePool:
        """Devices of a backend with the program, as :func:`moevit.devices.open_pool` has them."""
        return open_pool(
            backend,
            self.program,
            count,
            network=None if isinstance(self.subject, Program) else self.quantised_network,
            model=self.subject if isinstance(self.subject, Model) else None,
            on_cycles=on_cycles,
            recorder=recorder,
            report=report or self.report,
        )

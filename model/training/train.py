"""Training of an M3ViT, on the procedural scenes or on a data set.

AdamW with a linear warm-up and a cosine to zero; each batch holds as many images of every task, in
one forward pass. Training that was interrupted goes on from its last saved state, on the CPU with
exactly the weights that it would have had. State, checkpoint and log are there from the first step
on, and whole at any moment.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import multiprocessing

from ..checkpoint import remove_partial, write_atomically
from ..datasets import open_for
from ..evaluation.evaluate import Results
from .batches import Ahead, Batches, Images, Scenes, Source
from .data import Cache
from .parallel import Member, joined
from .settings import SCENES, TrainConfig, learning_rate
from .stopping import Stop, Stopped
from .trainer import Trainer
from .watching import Watch

__all__ = ["Stopped", "TrainConfig", "Trainer", "learning_rate", "train"]


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.5g}") for name, value in values.items()}


class Run:
    """A training as one process sees it; the first one also logs, saves and validates."""

    def __init__(self, trainer: Trainer, source: Source, watch: Watch) -> None:
        config, member = trainer.config, trainer.member
        self.trainer, self.watch = trainer, watch
        self.first = member.rank == 0
        self.batches = Batches(
            source, config.model, config.batch, config.seed, member.rank, member.size
        )
        self.results: Results = {}
        self._saved = -1

    def begin(self) -> None:
        """Make state, log and checkpoint fit one another before the first step."""
        config, step = self.trainer.config, self.trainer.step
        if not self.first:
            return
        for path in (config.state_path, config.out):
            remove_partial(path)
        if config.resume:
            _cut(config.log_path, step)
            self._saved = step
            if not config.out.is_file():
                self.trainer.publish()
            return
        config.log_path.unlink(missing_ok=True)
        self._save()

    def steps(self, stop: Stop) -> Results:
        """All steps that are left; returns the last validation scores."""
        trainer, config = self.trainer, self.trainer.config
        before = time.monotonic()
        with Ahead(self.batches, config.loaders) as batches:
            while trainer.step < config.steps:
                report = trainer.advance(batches[trainer.step], stop=stop.asked)
                trainer.seconds += time.monotonic() - before
                before = time.monotonic()
                stopped = report.pop("stop") > 0
                if not trainer.healthy(report):
                    raise RuntimeError(f"Training loss is {report['total']} at step {trainer.step}")
                if self.first:
                    self._record(report, stop, stopped)
                if stopped:
                    raise Stopped(trainer.step)
        return self.results

    def _record(self, report: dict[str, float], stop: Stop, stopped: bool) -> None:
        """Log, save and validate where the step asks for it."""
        trainer, config, step = self.trainer, self.trainer.config, self.trainer.step
        last = step == config.steps
        self.watch.step(step, report)
        if step % config.log_every == 0 or last:
            self._log({"step": step, "seconds": round(trainer.seconds, 1), **_rounded(report)})
        due = config.validation > 0 and (step % config.validate_every == 0 or last)
        if step % config.save_every == 0 or last or due or stopped:
            self._save()
        if not due or stopped:
            return

        def progress(done: int) -> None:
            self.watch.validating(done, config.validation)
            if stop.asked:
                raise Stopped(step)

        self.results = trainer.validate(config.validation, progress)
        scores = {name: _rounded(metrics) for name, metrics in self.results.items()}
        self._log({"step": step, "validation": scores})

    def _save(self) -> None:
        """The state first: a checkpoint is never newer."""
        if self._saved != self.trainer.step:
            self.trainer.save()
            self.trainer.publish()
            self._saved = self.trainer.step

    def _log(self, record: dict[str, Any]) -> None:
        with self.trainer.config.log_path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        self.watch.record(record)


def _cut(log: Path, step: int) -> None:
    """Drop what a log says of steps after ``step``, which are to be done again, and a line that is
    not whole."""
    if not log.is_file():
        return
    kept = []
    for line in log.read_text(errors="replace").splitlines():
        with contextlib.suppress(ValueError, TypeError, KeyError):
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
    write_atomically(log, "".join(kept).encode())


def _open(config: TrainConfig) -> Source:
    if config.data == SCENES:
        kinds = [task.kind for task in config.model.tasks]
        return Scenes(Cache.open("train", config.scenes, *config.model.image, kinds=kinds))
    assert config.root is not None
    data = open_for(config.data, config.root, "train", config.model.tasks, config.units)
    if config.validation:  # a mistake is better found now
        open_for(config.data, config.root, "validation", config.model.tasks, config.units)
    return Images(data, config.model.image)


def _run(config: TrainConfig, member: Member, watch: Watch) -> Results:
    """One process of a training, from the configuration to the end."""
    if config.threads:
        torch.set_num_threads(config.threads)
    config.out.parent.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(config, member)
    if config.resume:
        trainer.restore()
    run = Run(trainer, _open(config), watch)
    with Stop() as stop, joined(member, trainer.device), watch:
        run.begin()
        watch.start(config.model.name, trainer.step, config.steps)
        try:
            return run.steps(stop)
        except RuntimeError:
            if stop.asked:  # the others have stopped already
                raise Stopped(run._saved if run.first else trainer.step) from None
            raise


def _work(number: int, config: TrainConfig, meeting: str, failures: Any) -> None:
    """Body of a worker process that :func:`train` has started."""
    member = Member(rank=number + 1, size=config.workers, meeting=meeting)
    try:
        _run(config, member, Watch("none"))
    except Stopped:
        pass
    except Exception as error:
        failures.put((type(error).__name__, str(error)))
        raise SystemExit(1) from None


@contextlib.contextmanager
def _workers(config: TrainConfig) -> Iterator[tuple[Member, Any]]:
    """The processes beside this one, while the block runs."""
    if config.workers == 1:
        yield Member(), None
        return
    context = multiprocessing.get_context("spawn")
    failures = context.SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="moevit-") as folder:
        meeting = f"file://{Path(folder) / 'meeting'}"
        others = [
            context.Process(target=_work, args=(n, config, meeting, failures), daemon=True)
            for n in range(config.workers - 1)
        ]
        try:
            for process in others:
                process.start()
            yield Member(size=config.workers, meeting=meeting), failures
            for process in others:
                process.join()
        finally:
            for process in others:
                if process.is_alive():
                    process.terminate()
                    process.join()


def train(config: TrainConfig, *, show: str = "none") -> Results:
    """Train to the end and write the checkpoint; returns the last validation scores.

    ``show`` says who watches: see :class:`~.watching.Watch`. Called by every process that torchrun
    started, of which the first returns scores and the others nothing. Ctrl-C and SIGTERM end it
    after the current step with :class:`Stopped`, which is a ``KeyboardInterrupt``, everything
    being saved.

    Raises ``ValueError`` for a configuration, data or a state that cannot be used, and
    ``RuntimeError`` when the loss stops being finite.
    """
    member = Member.from_environment()
    if member is not None:
        if config.workers not in (1, member.size):
            raise ValueError(
                f"Training workers {config.workers} must be 1 under torchrun, which started "
                f"{member.size}"
            )
        config = dataclasses.replace(config, workers=member.size)
        return _run(config, member, Watch(show if member.rank == 0 else "none"))
    if config.workers > 1 and Member().device(config.device).type != "cpu":
        raise ValueError(
            f"Training with {config.workers} workers needs the CPU, or torchrun for the GPUs, "
            f"not {config.device}"
        )
    if config.workers > 1:
        _open(config)  # once, and mistakes are found before any worker starts
        if config.resume:
            Trainer(config, Member()).restore()
    with _workers(config) as (member, failures):
        try:
            return _run(config, member, Watch(show))
        except RuntimeError as error:
            if failures is not None and not failures.empty():
                name, text = failures.get()
                kind = ValueError if name == "ValueError" else RuntimeError
                raise kind(text) from None
            raise error

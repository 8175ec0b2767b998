"""Sizes of the M3ViT family: one frozen object from which network, training and hardware follow."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moevit.quant.operators.activations import ACTIVATIONS

from .kinds import TASK_KINDS
from .scenes.layout import CLASSES

__all__ = [
    "CROP_MODES",
    "DECODERS",
    "DEFAULT_KINDS",
    "GATES",
    "INTERPOLATIONS",
    "KINDS",
    "LABELLED",
    "PRESETS",
    "SCENE_KINDS",
    "SCENE_TASKS",
    "TOKEN_KINDS",
    "ModelConfig",
    "TaskConfig",
    "preset",
    "scene_task",
]

GATES = ("multi", "one", "conditioned")
"""Kinds of gate: one a task; one for all tasks; one for all that sees an embedding of the task."""

CROP_MODES = ("cover", "center", "squash", "border")
"""How a picture of another shape becomes the model's (:mod:`.preprocessing`)."""

INTERPOLATIONS = ("lanczos", "bicubic", "bilinear", "nearest", "hamming", "box")
"""How it is scaled."""

DECODERS = ("linear", "upsampling")
"""Heads of tasks that give images: linear, or M3ViT's convolutions with bilinear upsampling."""

KINDS = tuple(TASK_KINDS)
"""Kinds of task: how a head's raw output is decoded, trained and scored (:mod:`.kinds`)."""

SCENE_KINDS = tuple(kind.name for kind in TASK_KINDS.values() if kind.scene_weight is not None)
"""Those that the procedural scenes know the truth of."""

DEFAULT_KINDS = ("segmentation", "depth", "normals", "edges", "saliency")
"""Those of a new model."""

LABELLED = frozenset(kind.name for kind in TASK_KINDS.values() if kind.channels is None)
"""Kinds whose pixels have one label of several."""

TOKEN_KINDS = ("classification", "tokens")
"""Kinds whose result is no image: logits from the class token; the backbone's tokens, no head."""

_FIXED_CHANNELS = {k.name: k.channels for k in TASK_KINDS.values() if k.channels is not None}


def _positive(owner: str, **values: int) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{owner} {name} must be a positive integer, not {value!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskConfig:
    """One task: its name, kind, output channels, and the stride of its head in pixels.

    A head of stride ``s`` gives one value a channel for each ``s`` x ``s`` block of pixels. A task
    of a kind in :data:`TOKEN_KINDS` has no image to give; its stride is the patch by convention.
    Raises ``ValueError`` for an unknown kind or channels that the kind does not allow.
    """

    name: str
    kind: str
    channels: int
    stride: int

    def __post_init__(self) -> None:
        if not self.name or not self.name.replace("_", "").isalnum():
            raise ValueError(f"Task name must be letters, digits and '_', not {self.name!r}")
        if self.kind not in KINDS + TOKEN_KINDS:
            known = ", ".join(KINDS + TOKEN_KINDS)
            raise ValueError(f"Task kind must be one of {known}, not {self.kind!r}")
        _positive(f"Task {self.name}", channels=self.channels, stride=self.stride)
        if self.channels != _FIXED_CHANNELS.get(self.kind, self.channels):
            raise ValueError(
                f"Task {self.name} of kind {self.kind} has "
                f"{_FIXED_CHANNELS[self.kind]} channels, not {self.channels}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Geometry of one network.

    ``image`` is (height, width) in pixels, divided into square patches of ``patch`` pixels. ``dim``
    channels a token, in ``heads`` attention heads. Blocks count from 0; block ``i`` is a mixture of
    experts where ``i % moe_every == moe_every - 1`` (every second one by default) and dense
    elsewhere; ``experts`` of hidden width ``expert_hidden``, ``top_k`` of them a token. Pixels are
    normalised as ``(pixel / pixel_scale - pixel_mean) / pixel_std`` before the patch embedding.

    ``gate`` is one of :data:`GATES`; a conditioned one sees beside the token ``gate_task_dim``
    channels made of the task's number, through ``gate_task_hidden`` hidden ones (0: as many).
    ``gate_input_ahead``: gates read the tokens in front of their block, not the normalised ones
    behind its attention. ``experts_per_task``: how many experts a task may choose among (0: all),
    from ``expert_starts`` on, an expert a task (empty: spread evenly). ``renormalise``: scores add
    up to one over the ``top_k``. ``prune_threshold``: a score not above it counts as 0 and its
    expert is not computed; 0 keeps all. ``top_p``: experts by falling score until their scores
    add up to it, ``top_k`` of them at most; 1 keeps all of these.

    The last fields hold what imported models do differently. ``attention_scale``: factor of the
    scores, ``(dim / heads) ** -0.5`` if None. ``class_token_in_position``: row 0 of the position
    embedding is the class token itself, which then is no parameter of its own. ``pre_norm``: a
    LayerNorm stands between the embedded tokens and the first block (CLIP). ``gate_bias``: each
    task's router adds a constant to its logits. ``final_norm``: whether a LayerNorm follows the
    last block; without it tasks are of kind ``tokens`` or have upsampling heads, with norms of
    their own. ``distilled``: a second token
    like the class token, which heads on the class token read as well (DeiT). ``registers``: tokens
    behind those two that no head reads (Darcet et al. 2024). ``mean_pool``: heads
    of kind ``classification`` read the patches' mean instead; with ``pool_norm`` it is of the
    residual stream, without ``final_norm``, and has a LayerNorm behind it. ``decoder``: one of
    :data:`DECODERS`; an upsampling one has ``decoder_width`` channels inside. ``align_corners``:
    its doublings keep the outermost pixels' centres in their places, not their edges.
    ``crop_mode``, one of :data:`CROP_MODES`, ``crop_pct`` and ``interpolation``, one of
    :data:`INTERPOLATIONS`: how pictures of any size become the model's images. ``activation``: of
    the dense blocks, one of :data:`~moevit.quant.operators.activations.ACTIVATIONS`;
    ``expert_activation``: of the experts (empty: the same).

    Raises ``ValueError`` naming the field for sizes that do not fit one another.
    """

    name: str
    image: tuple[int, int]
    patch: int
    dim: int
    depth: int
    heads: int
    mlp_ratio: float
    experts: int
    top_k: int
    expert_hidden: int
    tasks: tuple[TaskConfig, ...]
    moe_every: int = 2
    class_token: bool = True
    norm_eps: float = 1e-6
    pixel_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    pixel_std: tuple[float, float, float] = (0.25, 0.25, 0.25)
    pixel_scale: float = 255.0
    pre_norm: bool = False
    attention_scale: float | None = None
    class_token_in_position: bool = False
    gate_bias: bool = False
    final_norm: bool = True
    gate: str = "multi"
    gate_task_dim: int = 0
    gate_task_hidden: int = 0
    gate_input_ahead: bool = False
    experts_per_task: int = 0
    expert_starts: tuple[int, ...] = ()
    renormalise: bool = False
    prune_threshold: float = 0.0
    top_p: float = 1.0
    distilled: bool = False
    registers: int = 0
    mean_pool: bool = False
    pool_norm: bool = False
    decoder: str = "linear"
    decoder_width: int = 256
    align_corners: bool = False
    crop_mode: str = "cover"
    crop_pct: float = 1.0
    interpolation: str = "lanczos"
    activation: str = "gelu"
    expert_activation: str = ""

    def __post_init__(self) -> None:
        _positive(
            "Model",
            image_height=self.image[0],
            image_width=self.image[1],
            patch=self.patch,
            dim=self.dim,
            depth=self.depth,
            heads=self.heads,
            experts=self.experts,
            top_k=self.top_k,
            expert_hidden=self.expert_hidden,
            moe_every=self.moe_every,
        )
        if any(side % self.patch for side in self.image):
            raise ValueError(f"Model image {self.image} must be a multiple of patch {self.patch}")
        if self.dim % self.heads:
            raise ValueError(f"Model dim {self.dim} must be a multiple of heads {self.heads}")
        if self.top_k > self.experts:
            raise ValueError(f"Model top_k {self.top_k} must be at most experts {self.experts}")
        self._check_routing()
        self._check_pictures()
        for name, value in (
            ("activation", self.activation),
            ("expert_activation", self.experts_activation),
        ):
            if value not in ACTIVATIONS:
                raise ValueError(
                    f"Model {name} must be one of {', '.join(ACTIVATIONS)}, not {value!r}"
                )
        if self.mlp_hidden < 1:
            raise ValueError(f"Model mlp_ratio must be positive, not {self.mlp_ratio!r}")
        if not self.norm_eps > 0:
            raise ValueError(f"Model norm_eps must be positive, not {self.norm_eps!r}")
        if not all(0 < deviation < math.inf for deviation in self.pixel_std):
            raise ValueError(f"Model pixel_std must be positive, not {self.pixel_std!r}")
        if not all(math.isfinite(mean) for mean in self.pixel_mean):
            raise ValueError(f"Model pixel_mean must be finite, not {self.pixel_mean!r}")
        if not self.pixel_scale > 0:
            raise ValueError(f"Model pixel_scale must be positive, not {self.pixel_scale!r}")
        if self.attention_scale is not None and not self.attention_scale > 0:
            raise ValueError(
                f"Model attention_scale must be positive, not {self.attention_scale!r}"
            )
        if self.registers < 0:
            raise ValueError(f"Model registers must not be negative, not {self.registers!r}")
        if self.class_token_in_position and (not self.class_token or self.front > 1):
            raise ValueError(
                "Model class_token_in_position needs class_token, and not distilled or registers"
            )
        if self.pool_norm and (self.final_norm or not self.mean_pool):
            raise ValueError("Model pool_norm needs mean_pool, and no final_norm")
        if self.distilled and not self.class_token:
            raise ValueError("Model distilled needs class_token")
        if not self.tasks:
            raise ValueError("Model tasks must name at least one task")
        names = [task.name for task in self.tasks]
        if len(set(names)) != len(names):
            raise ValueError(f"Model tasks must have different names, not {', '.join(names)}")
        for task in self.tasks:
            if task.kind == "classification" and not (self.class_token or self.mean_pool):
                raise ValueError(
                    f"Task {task.name} of kind classification needs class_token or mean_pool"
                )
            own = self.decoder == "upsampling" and task.kind in KINDS
            own = own or (self.pool_norm and task.kind == "classification")
            if task.kind != "tokens" and not self.final_norm and not own:
                raise ValueError(f"Task {task.name} of kind {task.kind} needs final_norm")
            if task.kind == "tokens" and task.channels != self.dim:
                raise ValueError(
                    f"Task {task.name} of kind tokens has {self.dim} channels, not {task.channels}"
                )
            if self.patch % task.stride:
                raise ValueError(
                    f"Task {task.name} stride {task.stride} must divide patch {self.patch}"
                )
        self._check_decoder()

    def _check_pictures(self) -> None:
        for name, known in (("crop_mode", CROP_MODES), ("interpolation", INTERPOLATIONS)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"Model {name} must be one of {', '.join(known)}, not {getattr(self, name)!r}"
                )
        if not 0.1 <= self.crop_pct <= 1:
            raise ValueError(f"Model crop_pct must be from 0.1 to 1, not {self.crop_pct!r}")

    def _check_routing(self) -> None:
        if self.gate not in GATES:
            raise ValueError(f"Model gate must be one of {', '.join(GATES)}, not {self.gate!r}")
        if (self.gate == "conditioned") != (self.gate_task_dim > 0):
            raise ValueError(
                f"Model gate_task_dim must be positive for a conditioned gate and 0 for others, "
                f"not {self.gate_task_dim!r} for {self.gate}"
            )
        if self.gate_task_hidden < 0 or (self.gate_task_hidden and not self.gate_task_dim):
            raise ValueError(
                "Model gate_task_hidden must not be negative, and 0 without gate_task_dim, "
                f"not {self.gate_task_hidden!r}"
            )
        if not 0 <= self.experts_per_task <= self.experts:
            raise ValueError(
                f"Model experts_per_task must be from 0 to {self.experts}, "
                f"not {self.experts_per_task!r}"
            )
        if self.top_k > self.window:
            raise ValueError(
                f"Model top_k {self.top_k} must be at most experts_per_task {self.window}"
            )
        spare = self.experts - self.window
        if self.expert_starts and (
            len(self.expert_starts) != len(self.tasks)
            or not all(0 <= start <= spare for start in self.expert_starts)
        ):
            raise ValueError(
                f"Model expert_starts must be {len(self.tasks)} numbers from 0 to {spare}, "
                f"not {self.expert_starts}"
            )
        if not 0 <= self.prune_threshold < 1:
            raise ValueError(
                f"Model prune_threshold must be from 0 to below 1, not {self.prune_threshold!r}"
            )
        if not 0 < self.top_p <= 1:
            raise ValueError(f"Model top_p must be above 0 to 1, not {self.top_p!r}")

    @property
    def window(self) -> int:
        """Experts that a task may choose among."""
        return self.experts_per_task or self.experts

    @property
    def starts(self) -> tuple[int, ...]:
        """First of the experts that each task may choose; spread as M3ViT spreads two tasks'."""
        spare, last = self.experts - self.window, max(len(self.tasks) - 1, 1)
        return self.expert_starts or tuple(task * spare // last for task in range(len(self.tasks)))

    def _check_decoder(self) -> None:
        if self.decoder not in DECODERS:
            raise ValueError(
                f"Model decoder must be one of {', '.join(DECODERS)}, not {self.decoder!r}"
            )
        _positive("Model", decoder_width=self.decoder_width)
        for task in self.tasks:
            side = self.patch // task.stride
            if self.decoder == "upsampling" and task.kind in KINDS and side & (side - 1):
                raise ValueError(
                    f"Task {task.name} has {side} outputs to a patch's side, "
                    "an upsampling decoder a power of two"
                )

    @property
    def grid(self) -> tuple[int, int]:
        """Patches down and across."""
        return self.image[0] // self.patch, self.image[1] // self.patch

    @property
    def tokens(self) -> int:
        """Patches of an image, plus the tokens in front of them."""
        return self.grid[0] * self.grid[1] + self.front

    @property
    def front(self) -> int:
        """Tokens in front of the patches: class token, distillation token and registers."""
        return int(self.class_token) + int(self.distilled) + self.registers

    @property
    def class_inputs(self) -> int:
        """Channels that a head of kind ``classification`` reads."""
        return self.dim * (1 if self.mean_pool else self.front - self.registers)

    @property
    def mlp_hidden(self) -> int:
        """Hidden width of the dense blocks."""
        return int(self.dim * self.mlp_ratio)

    @property
    def experts_activation(self) -> str:
        """Activation function of the experts."""
        return self.expert_activation or self.activation

    @property
    def task_names(self) -> tuple[str, ...]:
        """Names of the tasks, in order; a task's number is its place."""
        return tuple(task.name for task in self.tasks)

    def is_moe(self, block: int) -> bool:
        """Whether block ``block`` is a mixture of experts."""
        return block % self.moe_every == self.moe_every - 1

    def task_index(self, name: str) -> int:
        """Number of a task; ``ValueError`` naming the known ones for an unknown name."""
        if name not in self.task_names:
            raise ValueError(f"Task must be one of {', '.join(self.task_names)}, not {name!r}")
        return self.task_names.index(name)

    def task(self, name: str) -> TaskConfig:
        """A task's configuration by name."""
        return self.tasks[self.task_index(name)]

    def head_size(self, name: str) -> tuple[int, int]:
        """Height and width of a task's raw output."""
        stride = self.task(name).stride
        return self.image[0] // stride, self.image[1] // stride

    def subpixels(self, name: str) -> int:
        """Raw outputs of a task along one side of a patch."""
        return self.patch // self.task(name).stride

    def to_json(self) -> str:
        """One line of JSON that :meth:`from_json` reads back."""
        return json.dumps(dataclasses.asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> ModelConfig:
        """Read :meth:`to_json`'s output; ``ValueError`` naming the offending field."""
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"Model configuration is not JSON: {error}") from None
        fields = _checked("Model configuration", values, cls)
        tasks = fields["tasks"]
        if not isinstance(tasks, list):
            raise ValueError(f"Model configuration tasks must be a list, not {tasks!r}")
        fields["tasks"] = tuple(
            TaskConfig(**_checked("Task configuration", task, TaskConfig)) for task in tasks
        )
        for name, length in (("image", 2), ("pixel_mean", 3), ("pixel_std", 3)):
            if name in fields:
                value = fields[name]
                if not isinstance(value, list) or len(value) != length:
                    raise ValueError(
                        f"Model configuration {name} must be {length} numbers, not {value!r}"
                    )
                fields[name] = tuple(value)
        starts = fields.get("expert_starts", [])
        if not isinstance(starts, list) or not all(type(start) is int for start in starts):
            raise ValueError(
                f"Model configuration expert_starts must be whole numbers, not {starts!r}"
            )
        fields["expert_starts"] = tuple(starts)
        try:
            return cls(**fields)
        except TypeError as error:
            raise ValueError(f"Model configuration has a bad field: {error}") from None


def _checked(owner: str, values: object, kind: type[Any]) -> dict[str, Any]:
    """``values`` as keyword arguments of the dataclass ``kind``, or a ``ValueError``."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{owner} must be an object, not {values!r}")
    known = {field.name: field for field in dataclasses.fields(kind)}
    for name in values:
        if name not in known:
            raise ValueError(f"{owner} has an unknown field {name!r}")
    for name, field in known.items():
        if name not in values and field.default is dataclasses.MISSING:
            raise ValueError(f"{owner} lacks the field {name!r}")
    return dict(values)


def scene_task(kind: str, stride: int) -> TaskConfig:
    """A task of a kind that the scenes know, under the kind's name."""
    channels = TASK_KINDS[kind].channels or len(CLASSES)
    return TaskConfig(name=kind, kind=kind, channels=channels, stride=stride)


def _scene_tasks(stride: int) -> tuple[TaskConfig, ...]:
    return tuple(scene_task(kind, stride) for kind in DEFAULT_KINDS)


SCENE_TASKS = _scene_tasks(2)
"""The five tasks of the procedural scenes at half resolution, as the shipped model has them."""

PRESETS = {
    config.name: config
    for config in (
        ModelConfig(
            name="nano",
            image=(64, 128),
            patch=8,
            dim=96,
            depth=6,
            heads=3,
            mlp_ratio=4.0,
            experts=8,
            top_k=2,
            expert_hidden=192,
            tasks=SCENE_TASKS,
        ),
        ModelConfig(
            name="tiny",
            image=(128, 256),
            patch=16,
            dim=192,
            depth=12,
            heads=3,
            mlp_ratio=4.0,
            experts=16,
            top_k=2,
            expert_hidden=384,
            tasks=_scene_tasks(4),
        ),
        ModelConfig(
            name="small",
            image=(128, 256),
            patch=16,
            dim=384,
            depth=12,
            heads=6,
            mlp_ratio=4.0,
            experts=16,
            top_k=4,
            expert_hidden=384,
            tasks=_scene_tasks(4),
        ),
        ModelConfig(
            name="base",
            image=(128, 256),
            patch=16,
            dim=768,
            depth=12,
            heads=12,
            mlp_ratio=4.0,
            experts=16,
            top_k=4,
            expert_hidden=768,
            tasks=_scene_tasks(4),
        ),
    )
}
"""The sizes by name: ``nano`` ships trained, ``tiny`` is the reference workload, ``small`` is
M3ViT's headline, ``base`` is headroom."""


def preset(name: str) -> ModelConfig:
    """A size by name; ``ValueError`` naming the known ones otherwise."""
    if name not in PRESETS:
        raise ValueError(f"Size must be one of {', '.join(PRESETS)}, not {name!r}")
    return PRESETS[name]

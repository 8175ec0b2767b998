"""A model on which everything runs in a moment: 16 x 32 images, five tasks, three experts."""

from __future__ import annotations

from moevit.model.config import DEFAULT_KINDS, PRESETS, ModelConfig, TaskConfig

_CHANNELS = {task.kind: task.channels for task in PRESETS["nano"].tasks}

MICRO = ModelConfig(
    name="micro",
    image=(16, 32),
    patch=8,
    dim=16,
    depth=2,
    heads=2,
    mlp_ratio=2.0,
    experts=3,
    top_k=2,
    expert_hidden=16,
    tasks=tuple(
        TaskConfig(name=kind, kind=kind, channels=_CHANNELS[kind], stride=4)
        for kind in DEFAULT_KINDS
    ),
)

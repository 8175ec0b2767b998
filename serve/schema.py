"""The answers of the JSON API, which OpenAPI describes from here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

__all__ = ["About", "BoardCost", "Experts", "Frame", "Problem", "TaskAnswer", "TaskInfo", "Values"]


class BoardCost(BaseModel):
    """A frame on the accelerator at its target clock, which nobody has closed."""

    cycles: int
    ms: float
    fps: float
    clock_mhz: float
    how: Annotated[
        Literal["simulated", "measured", "estimated"],
        Field(description="Cycles of the simulated RTL, of a board, or of the compiler's model."),
    ]


class TaskInfo(BaseModel):
    """A task of the model."""

    name: str
    kind: str
    channels: int
    board: BoardCost


class About(BaseModel):
    """What is served."""

    version: str
    model: str
    preset: str
    config_hash: Annotated[str, Field(description="Of the accelerator's configuration, 64 bits.")]
    program: Annotated[str, Field(description="SHA-256 of the program's file.")]
    image: Annotated[tuple[int, int], Field(description="Height and width of the model's image.")]
    grid: Annotated[tuple[int, int], Field(description="Patches down and across.")]
    backends: list[str]
    tasks: list[TaskInfo]
    palette: Annotated[list[str], Field(description="Colours of labels and experts, by number.")]


class Experts(BaseModel):
    """Where the tokens of one mixture-of-experts layer went."""

    block: int
    experts: int
    indices: Annotated[
        list[list[int]],
        Field(description="Experts of each patch, in raster order, by falling score; -1: none."),
    ]
    scores: Annotated[list[list[float]], Field(description="Their scores, 0 to 1.")]
    queues: Annotated[list[int], Field(description="Tokens of each expert, the first ones too.")]


class Values(BaseModel):
    """The integers of a frame as they lie in memory."""

    dtype: Literal["int8", "int16"]
    shape: tuple[int, int]
    data: Annotated[str, Field(description="Little-endian bytes in base64.")]


class TaskAnswer(BaseModel):
    """One image under one task."""

    task: str
    kind: str
    seconds: Annotated[float, Field(description="Wall time of the backend.")]
    bit_exact: Annotated[
        bool | None, Field(description="Against the golden model; null where nothing is compared.")
    ]
    board: BoardCost
    counters: Annotated[
        dict[str, int | list[int]] | None, Field(description="Of a simulated or real device.")
    ] = None
    values: Values | None = None
    picture: Annotated[str | None, Field(description="A PNG as a data URL.")] = None
    best: Annotated[
        list[tuple[int, float]] | None, Field(description="Classes by falling logit, at most five.")
    ] = None
    experts: list[Experts] | None = None


class Frame(BaseModel):
    """One image under some tasks."""

    backend: str
    seconds: Annotated[float, Field(description="From the upload to the answer.")]
    tasks: list[TaskAnswer]
    input: Annotated[str | None, Field(description="The model's own pixels, PNG as a data URL.")]


class Problem(BaseModel):
    """What went wrong, in one line."""

    error: str

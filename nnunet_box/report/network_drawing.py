"""A plan's network as a drawing: stages of encoder and decoder with their feature maps and sizes, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nnunet_box.planning.plan import Configuration

STEP, LEVEL, TOP, GAP = 88, 58, 26, 22
BAR_LEAST, BAR_MOST = 26, 52
"""Height of a stage's bar: the coarser its grid, the lower."""


@dataclass(frozen=True)
class Stage:
    """A box of the drawing. x, y: of its upper left corner."""

    x: float
    y: float
    width: float
    height: float
    features: int
    size: str


@dataclass(frozen=True)
class Drawing:
    """A U: the encoder goes down on the left, the decoder up on the right. arrows: (x1, y1, x2, y2, text), poolings and
    transposed convolutions; skips: (x1, y, x2).
    """

    width: float
    height: float
    stages: tuple[Stage, ...]
    arrows: tuple[tuple[float, float, float, float, str], ...]
    skips: tuple[tuple[float, float, float], ...]
    description: str


def draw_network(configuration: Configuration, inputs: int, classes: int) -> Drawing:
    """The U-Net of a configuration. inputs: channels it takes. classes: labels with background."""
    features = configuration.features
    depth = len(features) - 1
    sizes = [configuration.patch_size]
    for pool in configuration.pool_kernel_sizes:
        sizes.append(tuple(size // factor for size, factor in zip(sizes[-1], pool, strict=True)))
    columns = 2 * depth + 1
    stages = [_stage(column, abs(depth - abs(column - depth)), depth, features, sizes) for column in range(columns)]
    arrows = []
    for column in range(columns - 1):
        left, right = stages[column], stages[column + 1]
        pool = configuration.pool_kernel_sizes[column if column < depth else columns - 2 - column]
        arrows.append(
            (
                left.x + left.width,
                left.y + left.height / 2,
                right.x,
                right.y + right.height / 2,
                f"{'÷' if column < depth else '×'}{'·'.join(str(factor) for factor in pool)}",
            )
        )
    skips = tuple(
        (
            stages[level].x + stages[level].width,
            stages[level].y + stages[level].height / 4,
            stages[columns - 1 - level].x,
        )
        for level in range(depth)
    )
    chain = ", ".join(f"{_text(size)} with {count} maps" for size, count in zip(sizes, features, strict=True))
    description = (
        f"U-Net from {inputs} channel{'s' * (inputs > 1)} to {classes} classes; stages of the encoder: {chain}."
    )
    return Drawing(
        columns * STEP - GAP + 16,
        TOP + depth * LEVEL + BAR_LEAST + 16,
        tuple(stages),
        tuple(arrows),
        skips,
        description,
    )


def _stage(column: int, level: int, depth: int, features: tuple[int, ...], sizes: Sequence[tuple[int, ...]]) -> Stage:
    height = BAR_MOST - (BAR_MOST - BAR_LEAST) * (level / max(1, depth))
    return Stage(column * STEP + 8, TOP + level * LEVEL, STEP - GAP, height, features[level], _text(sizes[level]))


def _text(size: tuple[int, ...]) -> str:
    return "×".join(str(value) for value in size)

"""A picture of one case: the prediction beside the reference, on the slice that shows most."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from nnunet_box.files import write_beside

COLOURS = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167),
    (148, 103, 189), (255, 152, 150), (23, 190, 207), (188, 189, 34), (140, 86, 75), (152, 223, 138), (227, 26, 28),
)  # fmt: skip
"""The seven colours of Okabe and Ito, which colour-blind readers can tell apart, then seven more."""

PANEL_PIXELS = 384
"""Longer side of a panel."""
WINDOW_PERCENTILES = (0.5, 99.5)
FILL = 0.35
MARGIN, LINE = 8, 22


def overlay_png(
    image: NDArray[Any],
    labels: NDArray[np.uint8],
    reference: NDArray[np.uint8] | None,
    path: Path,
    names: Mapping[int, str],
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> int:
    """Draw the slice with most foreground, prediction left, reference right, with a legend; return its index along Z.

    Parameters
    ----------
    image, labels, reference: (Z, Y, X) on one grid; rows of the picture are Y and columns X, as the file stores them.
    names: label value to name; the background's may be among them.
    spacing: (Z, Y, X) in mm; a pixel of the picture is as wide as high in mm.

    Grey values are windowed between the 0.5 and 99.5 percentile of the slice. Structures are filled lightly and
    outlined in full colour. The file is written whole or not at all.

    Raises
    ------
    ValueError: the arrays differ in shape.
    NnboxError: the disk is full or the folder cannot be written.
    """
    if labels.shape != image.shape or (reference is not None and reference.shape != image.shape):
        raise ValueError(f"image {image.shape}, labels {labels.shape} and reference must be of one shape")
    index = busiest_slice(labels, reference)
    size = _panel_size(image.shape[1:], spacing[1:])
    grey = Image.fromarray(_windowed(image[index])).resize(size, Image.Resampling.BICUBIC).convert("RGB")
    titled = [("prediction", labels)] + ([("reference", reference)] if reference is not None else [])
    legend = {value: name for value, name in sorted(names.items()) if value != 0}
    width, font = len(titled) * (size[0] + MARGIN) + MARGIN, ImageFont.load_default(size=14)
    columns = max(1, (width - MARGIN) // (max((_text_width(font, name) for name in legend.values()), default=0) + 34))
    height = LINE + size[1] + MARGIN + LINE * -(-len(legend) // columns) + MARGIN
    canvas = Image.new("RGB", (width, height), (24, 24, 24))
    draw = ImageDraw.Draw(canvas)
    for number, (title, volume) in enumerate(titled):
        left = MARGIN + number * (size[0] + MARGIN)
        draw.text((left, 3), title, fill=(235, 235, 235), font=font)
        canvas.paste(_painted(grey, volume[index]), (left, LINE))
    for number, (value, name) in enumerate(legend.items()):
        row, column = divmod(number, columns)
        left, top = MARGIN + column * ((width - MARGIN) // columns), LINE + size[1] + MARGIN + row * LINE
        draw.rectangle((left, top + 3, left + 12, top + 15), fill=colour(value))
        draw.text((left + 18, top), name, fill=(235, 235, 235), font=font)
    with write_beside(path) as temporary:
        canvas.save(temporary, format="PNG")
    return index


def colour(label: int) -> tuple[int, int, int]:
    """RGB of a label > 0; from the fifteenth on the colours start over."""
    return COLOURS[(label - 1) % len(COLOURS)]


def busiest_slice(labels: NDArray[np.uint8], reference: NDArray[np.uint8] | None = None) -> int:
    """Index along Z of the slice with most foreground on both sides together; the middle where there is none."""
    counts = np.count_nonzero(labels, axis=(1, 2))
    if reference is not None:
        counts = counts + np.count_nonzero(reference, axis=(1, 2))
    return int(np.argmax(counts)) if counts.any() else len(counts) // 2


def _windowed(plane: NDArray[Any]) -> NDArray[np.uint8]:
    plane = plane.astype(np.float32)
    low, high = np.percentile(plane, WINDOW_PERCENTILES)
    scaled = (plane - low) / max(float(high - low), 1e-6)
    grey: NDArray[np.uint8] = (np.clip(scaled, 0, 1) * 255).astype(np.uint8)
    return grey


def _panel_size(shape: tuple[int, ...], spacing: tuple[float, ...]) -> tuple[int, int]:
    """(width, height) in pixels of a slice (Y, X) with pixels of ``spacing`` mm."""
    extent = shape[0] * spacing[0], shape[1] * spacing[1]
    scale = PANEL_PIXELS / max(extent)
    return max(1, round(extent[1] * scale)), max(1, round(extent[0] * scale))


def _painted(grey: Image.Image, plane: NDArray[np.uint8]) -> Image.Image:
    # Labels are enlarged first and outlined then: an outline is one pixel of the picture however coarse the grid.
    large = np.asarray(Image.fromarray(plane).resize(grey.size, Image.Resampling.NEAREST))
    edge = _edges(large)
    pixels = np.asarray(grey).copy()
    for label in np.unique(large[large > 0]):
        tint = np.asarray(colour(int(label)))
        inside = large == label
        pixels[inside] = ((1 - FILL) * pixels[inside] + FILL * tint).astype(np.uint8)
        pixels[inside & edge] = tint
    return Image.fromarray(pixels)


def _edges(plane: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels whose left, right, upper or lower neighbour has another label."""
    edge = np.zeros(plane.shape, dtype=bool)
    across, along = plane[1:] != plane[:-1], plane[:, 1:] != plane[:, :-1]
    edge[1:] |= across
    edge[:-1] |= across
    edge[:, 1:] |= along
    edge[:, :-1] |= along
    return edge


def _text_width(font: Any, text: str) -> int:
    return int(np.ceil(font.getlength(text)))

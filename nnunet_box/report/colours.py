"""Colours of structures and folds that can be told from the page's ground, in light and in dark."""

from __future__ import annotations

from collections.abc import Sequence

from nnunet_box.report.overlay import COLOURS, colour

Rgb = tuple[int, int, int]

LIGHT_GROUND, DARK_GROUND = (244, 246, 248), (29, 34, 38)
LEAST_CONTRAST = 3.0
"""Of graphical objects beside what surrounds them (WCAG 2.2, 1.4.11)."""
STEP = 0.05


def page_colours(labels: Sequence[int]) -> dict[int, tuple[str, str, str]]:
    """By label: on a light ground, on a dark one, and on an image, as CSS writes them."""
    return {label: (*on_grounds(colour(label)), _css(colour(label))) for label in labels}


def fold_colours(folds: int) -> list[tuple[str, str]]:
    """By fold: on a light ground and on a dark one. The order is another than the structures'."""
    order = [COLOURS[(4 + 3 * fold) % len(COLOURS)] for fold in range(folds)]
    return [on_grounds(rgb) for rgb in order]


def on_grounds(rgb: Rgb) -> tuple[str, str]:
    """The colour, darker where it would not show on the light ground, and lighter where not on the dark one."""
    return _css(_until(rgb, LIGHT_GROUND, (0, 0, 0))), _css(_until(rgb, DARK_GROUND, (255, 255, 255)))


def contrast(one: Rgb, other: Rgb) -> float:
    """WCAG's contrast ratio, 1 to 21."""
    brighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (brighter + 0.05) / (darker + 0.05)


def _until(rgb: Rgb, ground: Rgb, towards: Rgb) -> Rgb:
    found, share = rgb, 0.0
    while contrast(found, ground) < LEAST_CONTRAST:
        share += STEP
        red, green, blue = (round((1 - share) * value + share * end) for value, end in zip(rgb, towards, strict=True))
        found = (red, green, blue)
    return found


def _luminance(rgb: Rgb) -> float:
    """Relative luminance of an sRGB colour (WCAG 2.2)."""
    parts = [part / 255 for part in rgb]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _css(rgb: Rgb) -> str:
    return f"#{rgb[0]:02x}{rgb[1]:02x}{rgb[2]:02x}"

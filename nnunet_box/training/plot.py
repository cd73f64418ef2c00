"""A curve and its average, drawn with the dots of braille characters: 2 wide and 4 high in each."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter

from rich.text import Text

DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bits of a character's dots, from the top; of the left and the right column."""
BLANK = 0x2800
LEAST_SPAN = 1e-6
VALUES, AVERAGE = "yellow", "bold cyan"
"""Styles; without colours the average is still the bold one."""


def plot(values: Sequence[float], averages: Sequence[float], width: int, height: int) -> list[Text]:
    """Lines of ``width`` characters, the greatest value at the top: values as dots, their averages as a line.

    values, averages: of the same length and not empty; of more than there are columns of dots, means of neighbours are
    drawn.
    """
    columns, rows = width * 2, height * 4
    values, averages = _thinned(values, columns), _thinned(averages, columns)
    least, most = min(*values, *averages), max(*values, *averages)
    span = max(most - least, LEAST_SPAN)

    def row(value: float) -> int:
        return round((most - value) / span * (rows - 1))

    def column(index: int) -> int:
        return round(index * (columns - 1) / max(1, len(values) - 1))

    points = {(row(value), column(index)) for index, value in enumerate(values)}
    line: set[tuple[int, int]] = {(row(averages[0]), 0)}
    for index in range(len(averages) - 1):
        first, last = column(index), column(index + 1)
        before = row(averages[index])
        for place in range(first, last + 1):
            share = (place - first) / max(1, last - first)
            now = row(averages[index] + share * (averages[index + 1] - averages[index]))
            line |= {(one, place) for one in range(min(before, now), max(before, now) + 1)}
            before = now
    return [_line(points, line, number, width) for number in range(height)]


def _thinned(values: Sequence[float], most: int) -> list[float]:
    """At most so many values: means of neighbours."""
    if len(values) <= most:
        return list(values)
    cuts = [round(index * len(values) / most) for index in range(most + 1)]
    return [sum(values[first:last]) / (last - first) for first, last in zip(cuts, cuts[1:], strict=False)]


def _line(points: set[tuple[int, int]], line: set[tuple[int, int]], number: int, width: int) -> Text:
    cells: list[tuple[str, str]] = []
    for place in range(width):
        bits, style = 0, VALUES
        for down, pair in enumerate(DOTS):
            for across, bit in enumerate(pair):
                dot = (number * 4 + down, place * 2 + across)
                if dot in line:
                    style = AVERAGE
                bits |= bit * (dot in line or dot in points)
        cells.append((style, chr(BLANK + bits) if bits else " "))
    # As few pieces as there are changes of style, which is what drawing costs.
    return Text.assemble(*(("".join(one for _, one in run), style) for style, run in groupby(cells, itemgetter(0))))

"""The tables of docs/scale.md as markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from scale.cost import FOLDS, Disk, Speed, Training, disk, trainings
from scale.data_sets import DataSet

from nnunet_box.planning.plan import Plan

BEGIN = "<!-- scale table: written by benchmarks/scale, do not edit -->"
END = "<!-- end of the scale table -->"
SHORT = {"2d": "2d", "3d_lowres": "low", "3d_fullres": "full", "3d_cascade_fullres": "cascade"}


@dataclass(frozen=True)
class Line:
    """A data set, its plan, and what they cost."""

    data_set: DataSet
    trainings: tuple[Training, ...]
    disk: Disk

    @property
    def networks(self) -> int:
        return FOLDS * len(self.trainings)

    @property
    def hours(self) -> tuple[float, float]:
        """GPU-hours of everything, where batches wait for nothing, and where two processes make them."""
        predicting = sum(training.predicting for training in self.trainings)
        least, most = (FOLDS * sum(training.hours[bound] for training in self.trainings) for bound in (0, 1))
        return least + predicting, most + predicting


def lines_of(facts: dict[str, Any], measured: dict[str, Any], measured_plan: Plan) -> list[Line]:
    """One a data set, in the order of the facts (``datasets.json``)."""
    speed = Speed.measured(measured["gpu"], measured_plan)
    found = []
    for entry in facts["data_sets"]:
        data_set = DataSet.of(entry)
        plan = data_set.plan()
        found.append(Line(data_set, tuple(trainings(data_set, plan, speed)), disk(data_set, plan, measured["bytes"])))
    return found


def tables(lines: Sequence[Line]) -> str:
    """Hours and disk of each data set, with a sum where a challenge has several, and of all."""
    challenges: dict[str, list[Line]] = {}
    for line in lines:
        challenges.setdefault(line.data_set.challenge, []).append(line)
    hours, space = [], []
    for challenge, members in challenges.items():
        hours += [_hours_row(line) for line in members]
        space += [_disk_row(line) for line in members]
        if len(members) > 1:
            hours.append(_hours_sum(f"**{challenge}, all {len(members)}**", members))
            space.append(_disk_sum(f"**{challenge}, all {len(members)}**", members))
    hours.append(_hours_sum(f"**All {len(challenges)} challenges**", lines))
    space.append(_disk_sum(f"**All {len(challenges)} challenges**", lines))
    return "\n".join(
        [
            _row("Data set", "Cases, channels, classes", "Networks", "`3d_fullres`: patch, batch",
                 "Milliseconds a batch", "Hours a network, at most",
                 "GPU-hours of all, at most", "Days on 1 GPU; on 4"),
            "|" + "---|" * 8,
            *hours,
            "",
            _row("Data set", "Images", "Case stores", "Weights", "Checkpoint of a running network",
                 "Validation probabilities", "Bundle and image", "In all"),
            "|" + "---|" * 8,
            *space,
        ]
    )  # fmt: skip


def details(lines: Sequence[Line]) -> str:
    """A line a model, for who wants to know where the sums come from."""
    found = [
        _row("Data set", "Model", "Patch", "Batch", "Parameters, 10^6", "Multiply-adds, 10^12", "ms a batch",
             "Hours a network", "Hours of prediction"),
        "|" + "---|" * 9,
    ]  # fmt: skip
    for line in lines:
        found += [
            _row(
                line.data_set.name,
                one.model,
                " x ".join(map(str, one.configuration.patch_size)),
                str(one.configuration.batch_size),
                f"{one.network.parameters / 1e6:.1f}",
                f"{one.network.step / 1e12:.2f}",
                f"{1e3 * one.step:.0f}",
                _span(one.hours),
                f"{one.predicting:.1f}",
            )
            for one in line.trainings
        ]
    return "\n".join(found)


def _hours_row(line: Line) -> str:
    full = next(one.configuration for one in line.trainings if one.model == "3d_fullres")
    return _row(
        line.data_set.name,
        f"{line.data_set.cases}, {line.data_set.channels}, {line.data_set.classes}",
        str(line.networks),
        f"{'x'.join(map(str, full.patch_size))}, {full.batch_size}",
        _by_model(line, lambda one: f"{1e3 * one.step:.0f}"),
        _by_model(line, lambda one: _span(one.hours)),
        *_sums([line]),
    )


def _hours_sum(name: str, lines: Sequence[Line]) -> str:
    return _row(name, "", str(sum(line.networks for line in lines)), "", "", "", *_sums(lines))


def _sums(lines: Sequence[Line]) -> tuple[str, str]:
    least, most = (sum(line.hours[bound] for line in lines) for bound in (0, 1))
    return _span((least, most)), f"{_span((least / 24, most / 24))}; {_span((least / 96, most / 96))}"


def _disk_row(line: Line) -> str:
    return _disk_cells(line.data_set.name, [line.disk])


def _disk_sum(name: str, lines: Sequence[Line]) -> str:
    return _disk_cells(name, [line.disk for line in lines])


def _disk_cells(name: str, disks: Sequence[Disk]) -> str:
    parts: list[Callable[[Disk], float]] = [
        lambda one: one.images,
        lambda one: one.stores,
        lambda one: one.weights,
        lambda one: one.checkpoint,
        lambda one: one.probabilities,
        lambda one: one.entry,
        lambda one: one.total,
    ]
    return _row(name, *(_gigabytes(sum(part(one) for one in disks)) for part in parts))


def _by_model(line: Line, text: Callable[[Training], str]) -> str:
    return "; ".join(f"{SHORT[one.model]} {text(one)}" for one in line.trainings)


def _span(bounds: tuple[float, float]) -> str:
    """The two bounds, once where they read the same."""
    least, most = (_figure(bound) for bound in bounds)
    return least if least == most else f"{least} to {most}"


def _figure(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def _gigabytes(value: float) -> str:
    return f"{value / 1e9:.0f} GB" if value >= 10e9 else f"{value / 1e9:.1f} GB"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"

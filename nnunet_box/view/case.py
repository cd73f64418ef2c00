"""What is shown: a case's images, its reference, and every prediction of it that can be found."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nnunet_box.dataset.cases import ChannelFile, SourceCase
from nnunet_box.dataset.dataset import Dataset
from nnunet_box.dataset.geometry import Geometry
from nnunet_box.dataset.volumes import is_volume, open_volume, strip_suffix
from nnunet_box.errors import InvalidData, UsageError
from nnunet_box.evaluation.comparison import find_label_names
from nnunet_box.evaluation.selection import ENSEMBLES, ensemble_name, simplest_first
from nnunet_box.files import read_json
from nnunet_box.progress import say
from nnunet_box.workspace import VALIDATION, Workspace

SAME_PLACE_MM = 1e-2
"""Label maps are drawn on the image's grid, voxel on voxel; one that claims to lie further off is told of."""
CLOSE_IDS = 3


@dataclass(frozen=True)
class Layer:
    """A label map. name: what it is called. reference: whether the others are compared with it."""

    name: str
    file: Path
    reference: bool = False


@dataclass(frozen=True)
class ViewedCase:
    """All that a viewer shows of one case.

    title: the case's id or the file's name. channels: name and file of each image. labels: value to name, without the
    background; a value that is not among them is shown by its number. layers: on the grid ``geometry`` of the first
    channel, a reference first. hounsfield: whether the values of a channel are those of a CT.
    """

    title: str
    dataset: str | None
    channels: tuple[tuple[str, ChannelFile], ...]
    labels: Mapping[int, str]
    layers: tuple[Layer, ...]
    geometry: Geometry
    hounsfield: tuple[bool | None, ...]

    @property
    def reference(self) -> Layer | None:
        return next((layer for layer in self.layers if layer.reference), None)


def case_of_dataset(workspace: Workspace, dataset: Dataset, case_id: str, given: Sequence[Layer] = ()) -> ViewedCase:
    """A case of a data set, with every prediction of it that the workspace holds, and ``given`` ones.

    A prediction that is found and cannot be shown is told of and left out; a given one that cannot be is an error.

    Raises
    ------
    UsageError: no such case. InvalidData: a file cannot be read, or a given one has another shape than the image.
    """
    case = _find_case(dataset, case_id)
    geometry = open_volume(case.reference_file).geometry
    references = (Layer("reference", case.label, reference=True),) if case.label is not None else ()
    found = found_predictions(workspace, case)
    layers = _on_grid(found, geometry, lambda problem: say(f"left out: {problem}"))
    kept = _on_grid((*references, *given), geometry, _refuse)
    return ViewedCase(
        title=case.id,
        dataset=dataset.name,
        channels=tuple(zip(dataset.channel_names, case.channels, strict=True)),
        labels={value: name for value, name in dataset.labels.items() if value != 0},
        layers=_distinct_names((*kept[: len(references)], *layers, *kept[len(references) :])),
        geometry=geometry,
        hounsfield=tuple(name.lower() == "ct" for name in dataset.channel_names),
    )


def case_of_file(path: Path, layers: Sequence[Layer]) -> ViewedCase:
    """An image file with the label maps given; names of structures come from a ``dataset.json`` beside the first.

    A file with several channels is that many images.

    Raises
    ------
    InvalidData: a file cannot be read, or a label map has another shape than the image.
    """
    opened = open_volume(path)
    names = find_label_names(layers[0].file) if layers else None
    several = opened.channels > 1
    channels = tuple(
        (f"channel {index}" if several else strip_suffix(path), ChannelFile(path, index if several else None))
        for index in range(opened.channels)
    )
    return ViewedCase(
        title=path.name,
        dataset=None,
        channels=channels,
        labels={value: name for value, name in (names or {}).items() if value != 0},
        layers=_distinct_names(_on_grid(layers, opened.geometry, _refuse)),
        geometry=opened.geometry,
        hounsfield=(None,) * len(channels),
    )


def _find_case(dataset: Dataset, case_id: str) -> SourceCase:
    cases = {case.id: case for case in (*dataset.cases, *dataset.test_cases)}
    if case_id in cases:
        return cases[case_id]
    close = difflib.get_close_matches(case_id, cases, CLOSE_IDS, 0.5) or list(cases)[:CLOSE_IDS]
    raise UsageError(
        f"No case {case_id!r} among the {len(cases)} of {dataset.name}, and no file of that name; "
        f"there is {', '.join(close) or 'none'}."
    )


def found_predictions(workspace: Workspace, case: SourceCase) -> list[Layer]:
    """Predictions of a case that lie in the workspace, the selected model's first.

    They are a fold's validation predictions, by the one network of each configuration that has not seen the case; the
    averages that selection wrote; and files below ``predictions`` that are named as the case or as its leaderboard's
    file, but for folders of other data sets. Postprocessing is done by ``nnbox predict`` alone.
    """
    selected = _selected(workspace)
    models = [path.name for path in _folders(workspace.models) if path.name != ENSEMBLES]
    validated = [
        (model, f"{model}, fold {fold.name.removeprefix('fold_')}", fold / VALIDATION)
        for model in simplest_first(models)
        for fold in _folders(workspace.models / model)
        if fold.name.startswith("fold_")
    ]
    averaged = [(folder.name, folder.name, folder / VALIDATION) for folder in _folders(workspace.models / ENSEMBLES)]
    candidates = [(model, name, folder / f"{case.id}.nii.gz") for model, name, folder in (*validated, *averaged)]
    layers = [
        Layer(f"{name} (selected)" if model == selected else name, file)
        for model, name, file in sorted(candidates, key=lambda one: one[0] != selected)
        if file.is_file()
    ]
    return layers + _predicted(workspace, case)


def _predicted(workspace: Workspace, case: SourceCase) -> list[Layer]:
    root = workspace.root / "predictions"
    others = {path.name for path in _folders(workspace.root / "datasets")} - {workspace.dataset}
    names = {case.id, strip_suffix(Path(case.output_name))}
    found = []
    for folder in _folders(root):
        if folder.name not in others:
            for file in sorted(folder.rglob("*")):
                if is_volume(file.relative_to(folder)) and strip_suffix(file) in names and file.is_file():
                    found.append(Layer(f"predictions/{file.parent.relative_to(root)}", file))
    return found


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _selected(workspace: Workspace) -> str | None:
    """The selected model's or ensemble's name; None where the file cannot be read."""
    try:
        chosen = read_json(workspace.selection)["chosen"]
        return ensemble_name(chosen)
    except (InvalidData, KeyError, TypeError):
        return None


def _refuse(problem: InvalidData) -> None:
    raise problem


def _on_grid(layers: Iterable[Layer], grid: Geometry, report: Callable[[InvalidData], None]) -> list[Layer]:
    """Those of the image's shape; the others go to ``report``."""
    kept = []
    for layer in layers:
        try:
            opened = open_volume(layer.file)
            if opened.channels > 1:
                fix = "Give one label map a file."
                raise InvalidData(layer.file, "a 3-D label map", f"{opened.channels} channels", fix)
            if opened.geometry.shape != grid.shape:
                found = f"{opened.geometry.shape}"
                raise InvalidData(
                    layer.file, f"the image's shape {grid.shape}", found, "Give the label map of this case."
                )
        except InvalidData as problem:
            report(problem)
            continue
        if not _same_place(opened.geometry, grid):
            say(f"{layer.file}: its header places it elsewhere than the image; it is shown voxel on voxel.")
        kept.append(layer)
    return kept


def _same_place(one: Geometry, other: Geometry) -> bool:
    numbers = [(*geometry.spacing, *geometry.origin, *geometry.direction) for geometry in (one, other)]
    return all(abs(left - right) <= SAME_PLACE_MM for left, right in zip(*numbers, strict=True))


def _distinct_names(layers: Iterable[Layer]) -> tuple[Layer, ...]:
    """The same layers; a name that occurs again gets a number."""
    seen: dict[str, int] = {}
    named = []
    for layer in layers:
        seen[layer.name] = seen.get(layer.name, 0) + 1
        named.append(replace(layer, name=f"{layer.name} {seen[layer.name]}") if seen[layer.name] > 1 else layer)
    return tuple(named)

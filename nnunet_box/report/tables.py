"""A report's tables and lists: what of the facts stands in which row, as text."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib import metadata
from statistics import median
from typing import Any

import nnunet_box
from nnunet_box.dataset.challenge import MEAN
from nnunet_box.means import mean_of
from nnunet_box.progress import duration_text
from nnunet_box.report.gather import Facts
from nnunet_box.report.network_drawing import draw_network
from nnunet_box.report.results import Run, Scored

Facing = list[tuple[str, str]]
"""Terms and what is said of them."""

NORMALISATIONS = {
    "ct": "clipped to the foreground's 0.5 and 99.5 percentile, then its mean and deviation",
    "zscore": "each case's own mean and deviation",
    "none": "none",
    "rescale-01": "scaled to 0 to 1",
    "rgb-01": "divided by 255",
}
SETTINGS = (
    ("budget_seconds", "budget {:g} s"),
    ("epochs", "at most {} epochs"),
    ("batches_per_epoch", "{} batches an epoch"),
)
VERSIONS_OF = ("torch", "numpy", "scipy")


def dataset_facts(facts: Facts) -> Facing:
    """The data set in a few lines."""
    dataset = facts.dataset
    groups = len({case.group for case in dataset.cases})
    strata = sorted({case.stratum for case in dataset.cases if case.stratum is not None})
    lines = [
        ("Training cases", f"{len(dataset.cases)}" + (f" of {groups} groups" if groups != len(dataset.cases) else "")),
        ("Test cases", str(len(dataset.test_cases))),
        ("Channels", ", ".join(dataset.channel_names)),
        ("Structures", ", ".join(dataset.labels[label] for label in dataset.foreground_labels)),
    ]
    if facts.folds:
        lines.append(("Folds", ", ".join(str(len(fold.val)) for fold in facts.folds) + " cases held out"))
    if strata:
        lines.append(("Balanced over", ", ".join(strata)))
    if facts.challenge is not None:
        lines += [("Licence", facts.challenge.facts.licence), ("To cite", facts.challenge.facts.reference)]
    return lines


def ranges(facts: Facts) -> list[dict[str, Any]]:
    """Least, median and largest of spacings, shapes and volumes."""
    cases, rows = facts.cohort.cases, []
    for axis, name in enumerate("ZYX"):
        rows.append(_range(f"Spacing {name}, mm", [case.spacing[axis] for case in cases], "{:.3g}"))
    for axis, name in enumerate("ZYX"):
        rows.append(_range(f"Shape {name}, voxels", [case.shape[axis] for case in cases], "{:.0f}"))
    for label in facts.dataset.foreground_labels:
        volumes = [case.volumes[label] for case in cases if case.volumes.get(label, 0) > 0]
        rows.append(_range(f"{facts.dataset.labels[label]}, ml", volumes, "{:.3g}") | {"label": label})
    return rows


def _range(what: str, values: Sequence[float], form: str) -> dict[str, Any]:
    row: dict[str, Any] = {"what": what, "cases": len(values), "label": None}
    if not values:
        return row | {"least": "–", "median": "–", "largest": "–"}
    return row | {
        "least": form.format(min(values)),
        "median": form.format(median(values)),
        "largest": form.format(max(values)),
    }


def plan_facts(facts: Facts) -> dict[str, Any] | None:
    """The plan as a table, and a drawing of each network."""
    plan = facts.plan
    if plan is None:
        return None
    said = [
        f"{channel}: {NORMALISATIONS[rule]}"
        for channel, rule in zip(plan.channel_names, plan.normalisation, strict=True)
    ]
    mask = " Deviations are taken inside the nonzero mask." if plan.use_nonzero_mask else ""
    rows, drawings = [], []
    for name in plan.models:
        entry = plan.configuration_of(name)
        rows.append(
            {
                "name": name,
                "spacing": _sizes(f"{value:.3g}" for value in entry.spacing),
                "shape": _sizes(entry.median_shape),
                "patch": _sizes(entry.patch_size),
                "batch": entry.batch_size,
                "poolings": _sizes(entry.num_pool_per_axis),
                "features": ", ".join(str(count) for count in entry.features),
                "kernels": " ".join(_sizes(kernel) for kernel in entry.conv_kernel_sizes),
            }
        )
        drawings.append((name, draw_network(entry, plan.inputs_of(name), len(plan.labels))))
    normalisation = f"Intensities: {'; '.join(said)}.{mask}"
    return {"memory_gb": plan.memory_gb, "normalisation": normalisation, "rows": rows, "drawings": drawings}


def run_rows(facts: Facts) -> list[dict[str, Any]]:
    """A line a network."""
    return [_run_row(run, facts) for run in facts.runs]


def _run_row(run: Run, facts: Facts) -> dict[str, Any]:
    scored = next((scored for scored in facts.scores if scored.name == run.model), None)
    held_out = facts.folds[run.fold].val
    means = [scored.mean_of(case) for case in held_out if case in scored.cases] if scored is not None else []
    settings = {name: value for name, value in run.settings.items() if value not in (None, [], ())}
    told = [form.format(settings[name]) for name, form in SETTINGS if name in settings]
    return {
        "name": f"{run.model}, fold {run.fold}",
        "state": "done" if run.finished else "unfinished",
        "epochs": len(run.epochs),
        "time": duration_text(run.seconds),
        "loss": "–" if not run.epochs or run.epochs[-1].loss is None else f"{run.epochs[-1].loss:.4f}",
        "dice": mean_of(means),
        "memory": "–" if run.peak_memory_bytes is None else f"{run.peak_memory_bytes / 1e9:.1f} GB",
        "seed": settings.get("seed", "–"),
        "settings": ", ".join(told),
    }


def case_rows(facts: Facts, scored: Scored) -> list[dict[str, Any]]:
    """A line a case, the worst first."""
    groups = {case.id: case.group for case in facts.dataset.cases}
    labels = facts.dataset.foreground_labels
    rows = [
        {
            "id": case,
            "group": groups.get(case, ""),
            "fold": facts.fold_of(case),
            "mean": scored.mean_of(case),
            "dice": [dice.get(label) for label in labels],
        }
        for case, dice in scored.cases.items()
    ]
    return sorted(rows, key=lambda row: (row["mean"] is None, row["mean"] or 0.0))


def selection_facts(facts: Facts) -> dict[str, Any] | None:
    """What was compared, what was chosen, and what postprocessing was tried."""
    selection = facts.selection
    if selection is None:
        return None
    labels, decision = facts.dataset.foreground_labels, selection.postprocessing_decision
    names = facts.dataset.labels
    candidates = [
        {
            "name": candidate.name,
            "mean": candidate.mean_foreground_dice,
            "dice": [candidate.dice.get(label) for label in labels],
            "chosen": candidate.configurations == selection.chosen,
        }
        for candidate in sorted(selection.candidates, key=lambda one: -(one.mean_foreground_dice or 0.0))
    ]
    trials = [
        {
            "of": "all structures together" if len(trial.labels) > 1 else names[trial.labels[0]],
            "before": trial.mean_before,
            "after": trial.mean_after,
            "accepted": trial.accepted,
            "reason": trial.reason,
        }
        for trial in decision.trials
    ]
    kept = [" and ".join(names[label] for label in step) for step in selection.postprocessing.steps]
    rule = f"only the largest component is kept of {'; of '.join(kept)}" if kept else "no postprocessing gains"
    text = f"Chosen: {selection.best.name}, the highest mean; of equals the simpler. After it {rule}."
    return {
        "text": text,
        "cases": selection.cases,
        "folds": len(selection.folds),
        "candidates": candidates,
        "trials": trials,
        "trial_cases": decision.cases,
    }


def published_rows(facts: Facts) -> list[dict[str, Any]]:
    """Published scores with ours beside them, where both are a Dice of the same structure."""
    labels, scored = facts.dataset.labels, facts.chosen
    means = scored.mean_dice(facts.dataset.foreground_labels) if scored is not None else {}
    ours = {labels[label]: value for label, value in means.items()} | {MEAN: mean_of(means.values())}
    return [
        {
            "structure": score.structure,
            "metric": score.metric,
            "who": score.who,
            "theirs": f"{score.value:g}",
            "ours": ours.get(score.structure) if score.metric == "Dice" else None,
            "on": score.on,
            "source": score.source,
            "certainty": score.certainty,
        }
        for score in facts.published
    ]


def bundle_facts(facts: Facts, sizes: Mapping[str, int]) -> dict[str, Any] | None:
    """What the bundle holds. sizes: bytes of its weights' files."""
    bundle = facts.bundle
    if bundle is None:
        return None
    rows = [
        {
            "name": stage.configuration + "".join(f" ({variant})" for variant in stage.variants),
            "fold": entry.fold,
            "file": entry.file,
            "mb": f"{sizes.get(entry.file, 0) / 1e6:.1f}",
            "sha256": entry.sha256,
        }
        for stage in bundle.stages
        for entry in stage.weights
    ]
    mirrored = "averaged over flips" if bundle.mirroring else "without flips"
    steps = len(bundle.postprocessing.steps)
    after = f", then {steps} step{'s' * (steps > 1)} of keeping the largest component" if steps else ""
    total = sum(sizes.values()) / 1e6
    text = f"The bundle: {len(bundle.weights_files)} networks, {total:.0f} MB, {mirrored}{after}."
    return {"text": text, "weights": rows}


def image_facts(record: Mapping[str, Any]) -> dict[str, Any]:
    """An image's record as ``nnbox build-submission image`` leaves it."""
    labels = record.get("labels")
    named: Mapping[str, Any] = labels if isinstance(labels, Mapping) else {}
    profile = record.get("profile")
    size = record.get("size_bytes")
    lines = [
        ("Size", f"{size / 1e6:.0f} MB" if isinstance(size, int) else None),
        ("Profile", profile.get("profile") if isinstance(profile, Mapping) else None),
        ("Challenge", record.get("challenge")),
        ("Built", record.get("built")),
        ("Identifier", record.get("id")),
        *sorted((name.removeprefix("org.opencontainers.image."), value) for name, value in named.items()),
    ]
    return {"tag": record.get("tag"), "facts": [(term, str(value)) for term, value in lines if value]}


def provenance(facts: Facts, made: datetime) -> Facing:
    """Versions, seeds, times, and what the page was made of."""
    seeds = sorted({str(run.settings["seed"]) for run in facts.runs if "seed" in run.settings})
    trained_by = sorted({run.versions["nnunet_box"] for run in facts.runs if "nnunet_box" in run.versions})
    spent = sum(run.seconds for run in facts.runs)
    lines = [
        ("Page made", made.strftime("%Y-%m-%d %H:%M %Z").strip()),
        ("nnunet_box", nnunet_box.__version__),
        ("Python", platform.python_version()),
        *((name, metadata.version(name)) for name in VERSIONS_OF),
        ("Contents of the data set", facts.cohort.key),
    ]
    if facts.runs:
        lines.append(("Training, all networks", duration_text(spent)))
    if trained_by:
        lines.append(("Trained by nnunet_box", ", ".join(trained_by)))
    if seeds:
        lines.append(("Seeds", ", ".join(seeds)))
    return lines


def verdict(facts: Facts) -> str:
    """The report in a sentence."""
    scored = facts.chosen
    if scored is None:
        step = "Nothing is trained yet" if facts.plan is not None else "Nothing is planned yet"
        return f"{step}: nnbox train-all {facts.dataset.name}"
    mean = mean_of(scored.mean_dice(facts.dataset.foreground_labels).values())
    value = "no Dice" if mean is None else f"mean Dice {mean:.4f}"
    what = "chosen by cross-validation" if facts.selection is not None else "the best so far, nothing selected yet"
    return f"{scored.name}, {what}: {value} over {len(scored.cases)} of {len(facts.dataset.cases)} cases."


def _sizes(values: Any) -> str:
    return "×".join(str(value) for value in values)

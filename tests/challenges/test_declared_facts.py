"""What the adapters declare, and the walls around them."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from nnbox_challenges.decathlon_tasks import PREFIXES, TASKS, TOLERANCES_MM
from nnunet_box.cli.convert import FACTS
from nnunet_box.dataset.challenge import challenge_names, load_challenge
from nnunet_box.errors import UsageError

README = Path(__file__).resolve().parents[2] / "challenges" / "README.md"


def test_adapters_are_found_through_entry_points():
    ours = ("acdc", "bcv", "decathlon", "lits", "ms_lesions", "promise12")
    assert set(ours) <= set(challenge_names())
    for name in ours:
        adapter = load_challenge(name)
        assert adapter.name == name
        assert adapter.title and adapter.facts.tasks
        assert {fact for fact, _ in FACTS} <= set(adapter.facts.certainty), f"{name}: say how sure each fact is"
    with pytest.raises(UsageError, match="acdc, bcv, decathlon"):
        load_challenge("nothing")


def test_all_ten_tasks_are_declared_with_the_published_counts():
    assert len(TASKS) == 10
    announced = [task.announced or (task.training, task.test) for task in TASKS]
    # The organisers announce 2633 volumes in all; two tasks deliver a few less.
    assert sum(training + test for training, test in announced) == 2633
    assert [task.name for task in TASKS if task.announced] == ["Task04_Hippocampus", "Task06_Lung"]
    names = [task.name for task in TASKS]
    assert names == sorted(names)
    assert sorted(PREFIXES.values()) == names == sorted(TOLERANCES_MM)
    assert [len(task.channels) for task in TASKS] == [4, 1, 1, 1, 2, 1, 1, 1, 1, 1]
    assert all(list(task.labels) == list(range(len(task.labels))) and task.labels[0] == "background" for task in TASKS)


# medicaldecathlon.com and the tasks' dataset.json: training, test, channels, labels.
PUBLISHED = {
    "Task01_BrainTumour": (484, 266, "FLAIR T1w t1gd T2w", "edema|non-enhancing tumor|enhancing tumour"),
    "Task02_Heart": (20, 10, "MRI", "left atrium"),
    "Task03_Liver": (131, 70, "CT", "liver|cancer"),
    "Task04_Hippocampus": (260, 130, "MRI", "Anterior|Posterior"),
    "Task05_Prostate": (32, 16, "T2 ADC", "PZ|TZ"),
    "Task06_Lung": (63, 32, "CT", "cancer"),
    "Task07_Pancreas": (281, 139, "CT", "pancreas|cancer"),
    "Task08_HepaticVessel": (303, 140, "CT", "Vessel|Tumour"),
    "Task09_Spleen": (41, 20, "CT", "spleen"),
    "Task10_Colon": (126, 64, "CT", "colon cancer primaries"),
}


def test_each_task_is_declared_as_published():
    declared = {
        task.name: (task.training, task.test, " ".join(task.channels), "|".join(list(task.labels.values())[1:]))
        for task in TASKS
    }
    assert declared == PUBLISHED


def test_adapters_never_import_torch():
    program = (
        "import sys; import nnbox_challenges.acdc, nnbox_challenges.decathlon, nnbox_challenges.promise12; "
        "import nnbox_challenges.bcv, nnbox_challenges.bcv_scores; "
        "import nnbox_challenges.ms_lesions, nnbox_challenges.ms_lesions_scores; "
        "import nnbox_challenges.acdc_scores, nnbox_challenges.decathlon_scores, nnbox_challenges.promise12_scores; "
        "import nnbox_challenges.lits, nnbox_challenges.lits_scores; "
        "print([name for name in ('torch', 'typer', 'docker') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_readme_names_the_six_and_their_state():
    text = README.read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ") and ("ready" in line or "planned" in line)]
    assert len(rows) == 6
    ready = [row for row in rows if "ready" in row]
    declared = tomllib.loads((README.parents[1] / "pyproject.toml").read_text())["project"]["entry-points"]
    assert len(ready) == len(declared["nnunet_box.challenges"])
    for name in challenge_names():
        assert any(f"`{name}`" in row for row in ready)


def test_adapter_of_the_readme_works(tmp_path):
    """The worked example runs as printed: recognises, converts, exports."""
    import re

    import numpy as np
    from tiny_downloads import SHAPE, labels_of, save

    from nnunet_box.dataset.dataset import load_dataset

    code = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert code is not None
    names: dict = {}
    exec(compile(code[1], str(README), "exec"), names)
    adapter = names["Kidneys"]()
    for number in range(2):
        save(tmp_path / "in" / f"scan{number}.nii.gz", np.ones(SHAPE, np.int16) * np.arange(SHAPE[2], dtype=np.int16))
        save(tmp_path / "in" / f"scan{number}-mask.nii.gz", labels_of(SHAPE, [1], number))
    recognition = adapter.recognise(tmp_path / "in")
    adapter.convert(recognition, tmp_path / "kidneys")
    dataset = load_dataset(tmp_path / "kidneys")
    assert [case.id for case in dataset.cases] == ["scan0", "scan1"]
    case = adapter.test_cases(tmp_path / "in", 1)[0]
    assert adapter.export(np.zeros(SHAPE[::-1], np.uint8), case, tmp_path / "out").name == "scan0.nii.gz"
    assert adapter.evaluate(tmp_path / "kidneys" / "labelsTr", tmp_path / "kidneys" / "labelsTr")["dice"] == 1.0

"""What the adapters declare, and the walls around them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nnbox_challenges.decathlon_tasks import PREFIXES, TASKS, TOLERANCES_MM
from nnunet_box.dataset.challenge import challenge_names, load_challenge
from nnunet_box.errors import UsageError

README = Path(__file__).resolve().parents[2] / "challenges" / "README.md"


def test_adapters_are_found_through_entry_points():
    assert {"acdc", "decathlon", "lits"} <= set(challenge_names())
    for name in ("acdc", "decathlon", "lits"):
        adapter = load_challenge(name)
        assert adapter.name == name
        assert adapter.title and adapter.facts.tasks
    with pytest.raises(UsageError, match="acdc, decathlon"):
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


def test_adapters_never_import_torch():
    program = (
        "import sys; import nnbox_challenges.acdc, nnbox_challenges.decathlon; "
        "import nnbox_challenges.acdc_scores, nnbox_challenges.decathlon_scores; "
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
    assert len(ready) >= 3
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

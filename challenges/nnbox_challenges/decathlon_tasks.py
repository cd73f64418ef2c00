"""The ten tasks as published (medicaldecathlon.com and its ``dataset.json`` files; Antonelli et al. 2022, Table 1).

Nothing here overrides a download: its own ``dataset.json`` decides, and differences are reported.
"""

from __future__ import annotations

from nnunet_box.dataset.challenge import TaskFacts

PREFIXES = {
    "BRATS": "Task01_BrainTumour",
    "la": "Task02_Heart",
    "liver": "Task03_Liver",
    "hippocampus": "Task04_Hippocampus",
    "prostate": "Task05_Prostate",
    "lung": "Task06_Lung",
    "pancreas": "Task07_Pancreas",
    "hepaticvessel": "Task08_HepaticVessel",
    "spleen": "Task09_Spleen",
    "colon": "Task10_Colon",
}
"""What the image files of each task start with."""


def _labels(*names: str) -> dict[int, str]:
    return dict(enumerate(("background", *names)))


TASKS = (
    TaskFacts(
        "Task01_BrainTumour",
        _labels("edema", "non-enhancing tumor", "enhancing tumour"),
        ("FLAIR", "T1w", "t1gd", "T2w"),
        484,
        266,
    ),
    TaskFacts("Task02_Heart", _labels("left atrium"), ("MRI",), 20, 10),
    TaskFacts("Task03_Liver", _labels("liver", "cancer"), ("CT",), 131, 70),
    TaskFacts("Task04_Hippocampus", _labels("Anterior", "Posterior"), ("MRI",), 260, 130, announced=(263, 131)),
    TaskFacts("Task05_Prostate", _labels("PZ", "TZ"), ("T2", "ADC"), 32, 16),
    TaskFacts("Task06_Lung", _labels("cancer"), ("CT",), 63, 32, announced=(64, 32)),
    TaskFacts("Task07_Pancreas", _labels("pancreas", "cancer"), ("CT",), 281, 139),
    TaskFacts("Task08_HepaticVessel", _labels("Vessel", "Tumour"), ("CT",), 303, 140),
    TaskFacts("Task09_Spleen", _labels("spleen"), ("CT",), 41, 20),
    TaskFacts("Task10_Colon", _labels("colon cancer primaries"), ("CT",), 126, 64),
)

TOLERANCES_MM = {
    "Task01_BrainTumour": 5.0,
    "Task02_Heart": 4.0,
    "Task03_Liver": 7.0,
    "Task04_Hippocampus": 1.0,
    "Task05_Prostate": 4.0,
    "Task06_Lung": 2.0,
    "Task07_Pancreas": 5.0,
    "Task08_HepaticVessel": 3.0,
    "Task09_Spleen": 3.0,
    "Task10_Colon": 4.0,
}
"""Surface Dice tolerances, millimetres. The organisers' page does not state them; these are the values in common use,
so they are defaults and not facts: ``Decathlon(tolerances=...)`` takes others, and every result says which it used."""

DEFAULT_TOLERANCE_MM = 1.0
"""For a task that is none of the ten."""


CAVEATS = {
    "Task01_BrainTumour": (
        "its label values are not BraTS's (1 edema, 2 non-enhancing, 3 enhancing), its images are of BraTS 2016 and "
        "2017: do not test a model on the one that was trained on the other"
    ),
    "Task03_Liver": "its images are LiTS's: a model trained on the one cannot be tested on the other",
    "Task04_Hippocampus": (
        "left and right hippocampus of a subject are separate cases that names cannot pair: "
        "a fold may hold one on each side"
    ),
    "Task05_Prostate": "some of its scans may be PROMISE12's too: compare before a model is tested on the other",
}
"""What a person has to know of a task's data and no file says."""


def task_facts(name: str | None) -> TaskFacts | None:
    """Published facts of a task by its folder name; None where it is none of the ten."""
    return next((task for task in TASKS if task.name == name), None)

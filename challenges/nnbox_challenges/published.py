"""Results that others published for the six challenges, with where they stand and how sure we are of each."""

from __future__ import annotations

from nnunet_box.dataset.challenge import MEAN, Certainty, PublishedScore

PREPRINT = "Isensee et al., arXiv:1904.08128, 2019"
ABLATION = f"{PREPRINT}, Figure 2"
V2_PRESETS = "nnU-Net v2, documentation/resenc_presets.md (its row of the original nnU-Net)"
NATURE_METHODS = "Isensee et al., Nature Methods 18, 2021, supplement"
LEADERBOARD_2018 = "the Decathlon's leaderboard of 2018"
LITS_BENCHMARK = "Bilic et al., arXiv:1901.04056"

FIVE_FOLDS = "five-fold cross-validation, 3d_fullres"
ONE_SPLIT = "one split of the training cases, 3D U-Net"
TEST = "the test cases"

ACDC = (
    PublishedScore("nnU-Net", MEAN, "Dice", 0.9154, FIVE_FOLDS, V2_PRESETS, "secondary"),
    PublishedScore(
        "nnU-Net", MEAN, "Dice", 0.9227, "five-fold cross-validation, 2d and 3d_fullres", NATURE_METHODS, "memory"
    ),
)
BCV = (
    PublishedScore("nnU-Net", MEAN, "Dice", 0.881, TEST, PREPRINT, "verified"),
    PublishedScore("nnU-Net", MEAN, "Dice", 0.8308, FIVE_FOLDS, V2_PRESETS, "secondary"),
)
LITS = (
    PublishedScore("nnU-Net", "liver", "Dice", 0.960, TEST, PREPRINT, "verified"),
    PublishedScore("nnU-Net", "tumour", "Dice", 0.738, TEST, PREPRINT, "verified"),
    PublishedScore("best entry", "liver", "Dice", 0.966, TEST, PREPRINT, "verified"),
    PublishedScore("best entry of 2018", "tumour", "Dice", 0.739, TEST, LITS_BENCHMARK, "verified"),
)
PROMISE12 = (
    PublishedScore("nnU-Net", "prostate", "score, 100 at best", 89.08, TEST, PREPRINT, "verified"),
    PublishedScore("best entry", "prostate", "score, 100 at best", 89.59, TEST, PREPRINT, "verified"),
)
MS_LESIONS = (
    PublishedScore("nnU-Net", "lesion", "score, 90 as a human", 93.09, TEST, PREPRINT, "verified"),
    PublishedScore("best entry", "lesion", "score, 90 as a human", 93.21, TEST, PREPRINT, "verified"),
)


def _decathlon() -> tuple[PublishedScore, ...]:
    split = {
        "Task01_BrainTumour": 0.72,
        "Task03_Liver": 0.78,
        "Task04_Hippocampus": 0.89,
        "Task05_Prostate": 0.77,
        "Task06_Lung": 0.65,
        "Task07_Pancreas": 0.65,
    }
    leaderboard = {
        "Task01_BrainTumour": {"edema": 0.68, "non-enhancing tumor": 0.47, "enhancing tumour": 0.68},
        "Task02_Heart": {"left atrium": 0.93},
        "Task03_Liver": {"liver": 0.95, "cancer": 0.74},
        "Task04_Hippocampus": {"Anterior": 0.90, "Posterior": 0.89},
        "Task05_Prostate": {"PZ": 0.76, "TZ": 0.90},
        "Task06_Lung": {"cancer": 0.69},
        "Task07_Pancreas": {"pancreas": 0.80, "cancer": 0.52},
        "Task08_HepaticVessel": {"Vessel": 0.63, "Tumour": 0.69},
        "Task09_Spleen": {"spleen": 0.96},
        "Task10_Colon": {"colon cancer primaries": 0.56},
    }

    def one(task: str, structure: str, value: float, on: str, source: str, certainty: Certainty) -> PublishedScore:
        return PublishedScore("nnU-Net", structure, "Dice", value, on, source, certainty, task)

    return (
        *(one(task, MEAN, value, ONE_SPLIT, ABLATION, "verified") for task, value in split.items()),
        *(
            one(task, structure, value, TEST, LEADERBOARD_2018, "memory")
            for task, values in leaderboard.items()
            for structure, value in values.items()
        ),
    )


DECATHLON = _decathlon()

"""What the doctor can repair without a person: headers that contradict themselves, labels of a wrong type."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nnunet_box.dataset.cases import SourceCase, read_label
from nnunet_box.dataset.dataset import Dataset
from nnunet_box.dataset.forms import SAME_AFFINE_MM, form_problems
from nnunet_box.dataset.untrusted import check_gzip
from nnunet_box.dataset.volumes import read_header, read_volume, write_labels_like, write_nifti
from nnunet_box.errors import InvalidData, UsageError
from nnunet_box.progress import track


def repair_dataset(dataset: Dataset, workspace: Path) -> list[str]:
    """Write files of a data set in the workspace anew, as conversion would have written them; return what was done.

    Images and labels whose qform, sform and ``pixdim`` contradict each other get both forms from one geometry; label
    maps of floats become uint8; label maps with another grid than their image take the image's. Voxels stay as they
    are. Files that cannot be read, or hold what is not theirs to hold, are left to ``check_dataset`` to tell.

    Raises
    ------
    UsageError: the data set is not one of the workspace, or its files lie elsewhere: a download is never changed.
    NnboxError: the disk is full or the folder cannot be written.
    """
    root = (workspace / "datasets").resolve()
    cases = (*dataset.cases, *dataset.test_cases)
    files = {channel.path for case in cases for channel in case.channels} | {case.label for case in cases if case.label}
    for path in (dataset.folder, *sorted({file.parent for file in files})):
        if not path.resolve().is_relative_to(root):
            raise UsageError(f"{path} is not in {root}: --fix changes the workspace's copies only. Convert or copy it.")
    done: list[str] = []
    for case in track(cases, "Repairing cases"):
        try:
            for file in dict.fromkeys(channel.path for channel in case.channels):
                done.extend(_repair_image(file))
            if case.label is not None:
                done.extend(_repair_label(case, case.label, set(dataset.labels)))
        except InvalidData:
            continue  # check_dataset tells it, in the same words
    return done


def _repair_image(file: Path) -> list[str]:
    geometry, channels, header = read_header(file)
    problems = form_problems(geometry, header)
    if not problems or channels > 1:
        return []
    check_gzip(file)
    write_nifti(file, read_volume(file).array, geometry)
    return [f"{file}: {problem}" for problem in problems]


def _repair_label(case: SourceCase, file: Path, declared: set[int]) -> list[str]:
    geometry, _, header = read_header(file)
    reasons = form_problems(geometry, header)
    if str(header.get("dtype", "")).startswith("float"):
        reasons.append(f"{header['dtype']} written as uint8")
    image = read_header(case.reference_file)[0]
    if not np.allclose(image.affine_ras(), geometry.affine_ras(), atol=SAME_AFFINE_MM):
        reasons.append(f"the grid of {case.reference_file.name} taken")
    if reasons:
        check_gzip(file)
        write_labels_like(file, read_label(file, declared, case.reference_file), case.reference_file)
    return [f"{file}: {reason}" for reason in reasons]

"""What a report says of the cases: volumes, grids and intensities, measured once."""

from __future__ import annotations

import numpy as np
import pytest

from nnunet_box.dataset.cases import ChannelFile, SourceCase
from nnunet_box.dataset.geometry import Geometry
from nnunet_box.dataset.volumes import read_volume, write_nifti
from nnunet_box.report import cohort as module
from nnunet_box.report.cohort import BINS, CT_RANGE, measure_cohort, measured_case


def written_case(folder, image, labels, spacing=(3.0, 1.0, 0.5)):
    geometry = Geometry(image.shape, spacing)
    write_nifti(folder / "a_0000.nii.gz", image, geometry)
    write_nifti(folder / "a.nii.gz", labels, geometry)
    return SourceCase("a", "a", (ChannelFile(folder / "a_0000.nii.gz"),), label=folder / "a.nii.gz")


def test_volumes_are_ml_and_hounsfield_units_fall_into_their_bins(tmp_path):
    image = np.full((4, 10, 10), -1000, np.int16)
    labels = np.zeros(image.shape, np.uint8)
    labels[:, :5, :4] = 1
    image[labels == 1] = 40
    facts, (shares,) = measured_case(written_case(tmp_path, image, labels), ("CT",), (1, 2))
    assert facts.volumes == {1: pytest.approx(80 * 1.5 / 1000), 2: 0.0}
    assert (facts.shape, facts.spacing) == ((4, 10, 10), (3.0, 1.0, 0.5))
    step = (CT_RANGE[1] - CT_RANGE[0]) / BINS
    air, tissue = int((-1000 - CT_RANGE[0]) / step), int((40 - CT_RANGE[0]) / step)
    assert shares[0][air] == pytest.approx(0.8) and shares[0][tissue] == pytest.approx(0.2)
    assert shares[1][tissue] == 1 and set(shares) == {0, 1}


def test_other_images_are_told_in_deviations_of_their_nonzero_voxels(tmp_path):
    random = np.random.default_rng(0)
    image = np.zeros((6, 40, 40), np.float32)
    image[:, 10:30, 10:30] = random.normal(500, 20, (6, 20, 20))
    labels = np.zeros(image.shape, np.uint8)
    labels[:, 12:20, 12:20] = 1
    case = written_case(tmp_path, image, labels)
    _, (shares,) = measured_case(case, ("MRI",), (1,))
    centres = module.SCORE_RANGE[0] + (np.arange(BINS) + 0.5) * (module.SCORE_RANGE[1] - module.SCORE_RANGE[0]) / BINS
    assert (shares[0] * centres).sum() == pytest.approx(0, abs=0.05)
    assert (shares[0] * centres**2).sum() == pytest.approx(1, abs=0.05)
    # A thousand times as bright is the same image.
    write_nifti(case.channels[0].path, image * 1000, Geometry(image.shape, (3.0, 1.0, 0.5)))
    again = measured_case(case, ("MRI",), (1,))[1][0]
    assert np.abs(again[0] - shares[0]).max() < 0.01


def test_cases_are_read_once_and_again_only_where_they_changed(finished, tmp_path, monkeypatch):
    _, dataset = finished
    first = measure_cohort(tmp_path / "cohort.json", "key", dataset, processes=1)
    assert [case.id for case in first.cases] == [case.id for case in dataset.cases]
    label = read_volume(dataset.cases[0].label)
    ml = np.prod(label.geometry.spacing) / 1000
    assert first.cases[0].volumes[3] == pytest.approx((label.array == 3).sum() * ml, abs=1e-3)
    assert all(sum(histogram.voxels) == pytest.approx(1, abs=1e-3) for histogram in first.histograms)

    def refuse(*_, **__):
        raise AssertionError("read again")

    monkeypatch.setattr(module, "measured_case", refuse)
    assert measure_cohort(tmp_path / "cohort.json", "key", dataset, processes=1) == first
    with pytest.raises(AssertionError, match="read again"):
        measure_cohort(tmp_path / "cohort.json", "another", dataset, processes=1)
    (tmp_path / "cohort.json").write_text('{"schema_version": 1, "key": "key"')
    with pytest.raises(AssertionError, match="read again"):
        measure_cohort(tmp_path / "cohort.json", "key", dataset, processes=1)

"""Where 3D patches start, and every step of their way down."""

import pytest

from nnunet_box.planning.patch import isotropic_patch, shrink_until
from nnunet_box.planning.topology import Shape, Topology, pool_late

ISOTROPIC = (1.0, 1.0, 1.0)


def way_down(patch: Shape, typical_shape: Shape, steps: int) -> list[Shape]:
    """The patches that are tried, in order, where ``steps`` of them do not fit."""
    tried: list[Shape] = []

    def fits(shape: Shape, _: Topology) -> bool:
        tried.append(shape)
        return len(tried) > steps

    shrink_until(patch, typical_shape, lambda shape: pool_late(shape, ISOTROPIC), fits)
    return tried


def test_patches_start_as_cubes_of_512_voxels_along_the_coarsest_axis() -> None:
    assert isotropic_patch((1.0, 0.75, 0.5), (2000, 2000, 2000)) == (512, 683, 1024)
    assert isotropic_patch((3.0, 1.0, 2.0), (5000, 5000, 5000)) == (512, 1536, 768)


def test_patches_start_no_larger_than_the_typical_case() -> None:
    assert isotropic_patch((3.0, 0.6, 0.6), (30, 400, 5000)) == (30, 400, 2560)


def test_the_last_of_equal_shares_goes_first_by_one_pooling() -> None:
    assert way_down((40, 40, 40), (40, 40, 40), 3) == [(40, 40, 40), (40, 40, 32), (40, 32, 32), (32, 32, 32)]


def test_an_axis_at_four_voxels_in_the_bottleneck_goes_by_half_a_pooling() -> None:
    assert way_down((32, 32, 32), (32, 32, 32), 1) == [(32, 32, 32), (32, 32, 28)]
    # 28 voxels are pooled twice only, so the next cut is of four.
    assert way_down((28, 16, 16), (28, 64, 64), 2) == [(28, 16, 16), (24, 16, 16), (20, 16, 16)]


def test_the_axis_with_the_largest_share_goes_first_not_the_longest() -> None:
    assert way_down((24, 64, 40), (30, 640, 40), 1)[1] == (24, 64, 32)
    assert way_down((24, 64, 40), (24, 640, 400), 1)[1] == (20, 64, 40)


def test_patches_are_padded_before_they_are_tried() -> None:
    assert way_down((37, 40, 40), (37, 400, 400), 1) == [(40, 40, 40), (32, 40, 40)]


@pytest.mark.parametrize("typical", [(5, 5, 5), (1, 5, 5)])
def test_no_axis_is_cut_below_four_voxels(typical: Shape) -> None:
    tried = way_down(typical, typical, 100)
    assert tried[-1] == (min(typical[0], 4), 4, 4)
    assert tried[1] == (typical[0], 5, 4)


def test_nothing_fits_a_memory_that_is_too_small() -> None:
    assert shrink_until((16, 16, 16), (16, 16, 16), lambda shape: pool_late(shape, ISOTROPIC), lambda *_: False) is None


def test_a_patch_that_fits_stays_whole() -> None:
    fitted = shrink_until((36, 50, 35), (36, 50, 35), lambda shape: pool_late(shape, ISOTROPIC), lambda *_: True)
    assert fitted is not None
    assert fitted[0] == (40, 56, 40)
    assert fitted[1].num_pool_per_axis == (3, 3, 3)

"""Poolings and kernels, by hand-worked examples of the April 2019 rules."""

import pytest

from nnunet_box.planning.topology import pool_by_spacing, pool_late, poolings


@pytest.mark.parametrize(
    ("size", "count"), [(1, 0), (2, 0), (3, 0), (4, 0), (7, 0), (8, 1), (15, 1), (16, 2), (31, 2), (32, 3), (512, 7)]
)
def test_an_axis_is_halved_while_four_voxels_stay(size: int, count: int) -> None:
    assert poolings(size) == count


def test_a_short_axis_is_pooled_last() -> None:
    net = pool_late((10, 256, 224), (10.0, 1.5625, 1.5625))
    assert net.num_pool_per_axis == (1, 6, 5)
    assert net.pool_kernel_sizes == ((1, 2, 1), (1, 2, 2), (1, 2, 2), (1, 2, 2), (1, 2, 2), (2, 2, 2))
    # In-plane spacing of the y axis by stage: 1.56, 3.1, 6.25 mm; x one pooling behind. Coarse from 5 mm up.
    assert net.conv_kernel_sizes == ((1, 3, 3), (1, 3, 3), (1, 1, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3))


def test_isotropic_axes_convolve_together_from_the_start() -> None:
    net = pool_late((40, 48, 33), (1.0, 1.0, 1.0))
    assert net.num_pool_per_axis == (3, 3, 3)
    assert set(net.conv_kernel_sizes) == {(3, 3, 3)}
    assert len(net.conv_kernel_sizes) == 4


def test_exactly_half_the_coarsest_spacing_is_still_fine() -> None:
    assert pool_late((16, 16, 16), (2.0, 1.0, 1.0)).conv_kernel_sizes[0] == (1, 3, 3)
    assert pool_late((16, 16, 16), (2.0, 1.001, 1.001)).conv_kernel_sizes[0] == (3, 3, 3)


def test_an_axis_of_one_voxel_is_never_pooled() -> None:
    net = pool_late((1, 64, 64), (1.0, 1.0, 1.0))
    assert net.num_pool_per_axis == (0, 4, 4)
    assert set(net.pool_kernel_sizes) == {(1, 2, 2)}
    assert net.pad((1, 65, 64)) == (1, 80, 64)


def test_nothing_to_pool_leaves_one_stage() -> None:
    net = pool_late((3, 5, 7), (1.0, 1.0, 1.0))
    assert net.pool_kernel_sizes == ()
    assert net.conv_kernel_sizes == ((3, 3, 3),)
    assert net.pad((3, 5, 7)) == (3, 5, 7)


def test_padding_goes_up_to_the_next_multiple() -> None:
    net = pool_late((36, 50, 35), (1.0, 1.0, 1.0))
    assert net.divisors == (8, 8, 8)
    assert net.pad((36, 50, 35)) == (40, 56, 40)
    assert net.pad((40, 56, 40)) == (40, 56, 40)


def test_slices_halve_while_eight_pixels_stay() -> None:
    net = pool_by_spacing((320, 232), (1.25, 1.25))
    assert net.num_pool_per_axis == (6, 5)
    assert net.pool_kernel_sizes[-1] == (2, 1)


def test_a_short_side_stops_a_long_one() -> None:
    net = pool_by_spacing((16, 512), (1.0, 1.0))
    # After two joint poolings y has 4 pixels and stays at 4 mm; x is pooled once more, to 8 mm, and then too coarse.
    assert net.num_pool_per_axis == (2, 3)
    assert net.pool_kernel_sizes == ((2, 2), (2, 2), (1, 2))


def test_a_finer_axis_is_pooled_until_it_has_caught_up() -> None:
    net = pool_by_spacing((64, 64), (1.0, 4.0))
    # y: 1, 2, 4 mm, then both; at 16 mm y has four pixels left, so x goes on alone, once.
    assert net.pool_kernel_sizes == ((2, 1), (2, 1), (2, 2), (2, 2), (1, 2))


@pytest.mark.parametrize(("coarse", "first"), [(1.79, (2, 2)), (1.81, (2, 1))])
def test_in_plane_axes_are_pooled_together_within_a_factor_of_1_8(coarse: float, first: tuple[int, int]) -> None:
    assert pool_by_spacing((64, 64), (1.0, coarse)).pool_kernel_sizes[0] == first


@pytest.mark.parametrize(("coarse", "first"), [(1.99, (3, 3)), (2.0, (3, 1)), (4.0, (3, 1))])
def test_in_plane_axes_are_convolved_together_within_a_factor_of_2(coarse: float, first: tuple[int, int]) -> None:
    net = pool_by_spacing((64, 64), (1.0, coarse))
    assert net.conv_kernel_sizes[0] == first
    assert net.conv_kernel_sizes[-1] == (3, 3)

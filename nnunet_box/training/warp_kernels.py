"""The compiled loops of ``warp.py``: arrays in, ``moved`` and ``moved_labels`` written in place.

A tile of voxels goes through three stages: its positions, once for all channels and label maps; the image's channels;
the label maps. Positions are float64, so that the edge of an image falls on the same voxel as in scipy; fractions and
values are float32. The 4 voxels of a row that a spline reads are one vector: numba does not make vectors of
neighbouring loads by itself, hence the intrinsic.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic

from nnunet_box.training.compiled import compiled

TILE = 2048
"""Voxels, in whole rows, whose positions are kept at a time."""
FOUR = ir.VectorType(ir.FloatType(), 4)
LANES = ir.VectorType(ir.IntType(32), 4)
CUBIC = (
    (-1 / 6, 1 / 2, -1 / 2, 1 / 6),
    (1 / 2, -1.0, 1 / 2, 0.0),
    (-1 / 2, 0.0, 1 / 2, 0.0),
    (1 / 6, 2 / 3, 1 / 6, 0.0),
)
"""Weights of the four voxels around a position, as polynomials of its fraction: factors of t^3, t^2, t and 1."""


def _as_instructions(kind: Any) -> Any:
    """Without types: what numba's decorator gives is called with one argument less than is written."""
    return intrinsic(kind)


def _plus_product(builder: ir.IRBuilder, total: Any, left: Any, right: Any) -> Any:
    product = builder.fmul(left, right, flags=("contract",))
    return product if total is None else builder.fadd(total, product, flags=("contract",))


def _everywhere(builder: ir.IRBuilder, vector: Any, lane: int) -> Any:
    """A vector of one lane of another."""
    return builder.shuffle_vector(vector, ir.Constant(FOUR, ir.Undefined), ir.Constant(LANES, [lane] * 4))


def _cubic(builder: ir.IRBuilder, fraction: Any) -> Any:
    """Vector of the four weights."""
    lane = ir.Constant(ir.IntType(32), 0)
    t = _everywhere(builder, builder.insert_element(ir.Constant(FOUR, ir.Undefined), fraction, lane), 0)
    weights = None
    for factors in CUBIC:
        constant = ir.Constant(FOUR, [float(np.float32(factor)) for factor in factors])
        weights = constant if weights is None else _plus_product(builder, constant, weights, t)
    return weights


def _rows(builder: ir.IRBuilder, data: Any, first: Any, stride: Any, weights: Any) -> Any:
    """Weighted sum of the four rows of four voxels that are ``stride`` apart."""
    total, at = None, first
    for row in range(4):
        voxels = builder.load(builder.bitcast(builder.gep(data, [at]), FOUR.as_pointer()), align=4)
        total = _plus_product(builder, total, voxels, _everywhere(builder, weights, row))
        at = builder.add(at, stride)
    return total


def _sum(builder: ir.IRBuilder, vector: Any) -> Any:
    a, b, c, d = (builder.extract_element(vector, ir.Constant(ir.IntType(32), lane)) for lane in range(4))
    return builder.fadd(builder.fadd(a, c), builder.fadd(b, d))


@_as_instructions
def _spline_2d(_: Any, coefficients: Any, first: Any, row: Any, y: Any, x: Any) -> Any:
    """Spline at fractions ``y, x``, whose 4 x 4 coefficients begin at index ``first``; a row is ``row`` voxels long."""
    signature = types.float32(coefficients, types.intp, types.intp, types.float32, types.float32)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        at, row, y, x = arguments[1:]
        total = _rows(builder, data, at, row, _cubic(builder, y))
        return _sum(builder, builder.fmul(total, _cubic(builder, x)))

    return signature, generate


@_as_instructions
def _spline_3d(_: Any, coefficients: Any, first: Any, plane: Any, row: Any, z: Any, y: Any, x: Any) -> Any:
    """The same of 4 x 4 x 4; a plane is ``plane`` voxels large."""
    signature = types.float32(coefficients, *[types.intp] * 3, *[types.float32] * 3)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        at, plane, row, z, y, x = arguments[1:]
        weights_z, weights_y = _cubic(builder, z), _cubic(builder, y)
        total = None
        for k in range(4):
            share = _rows(builder, data, at, row, weights_y)
            total = _plus_product(builder, total, share, _everywhere(builder, weights_z, k))
            at = builder.add(at, plane)
        return _sum(builder, builder.fmul(total, _cubic(builder, x)))

    return signature, generate


@compiled
def _positions(
    begin: float,
    factors: Any,
    elastic: bool,
    along_z: Any,
    along_y: Any,
    along_x: Any,
    last: int,
    whole: Any,
    part: Any,
) -> None:
    """Where in the source a row of the patch (X,) comes from, along one axis: voxel and fraction after it.

    A position on the last voxel is that before it and a fraction of 1; ``whole`` is -1 outside of 0..``last``.
    begin: position of the row's first voxel without offsets. factors: of the position, from the patch's axes. along_z,
    along_y, along_x: offsets (X,) along the patch's axes, if ``elastic``.
    """
    highest = np.int32(max(last - 1, 0))
    by_z, by_y, by_x = factors[0], factors[1], factors[2]
    for x in range(len(whole)):
        at = begin + by_x * x
        if elastic:
            at += by_z * along_z[x] + by_y * along_y[x] + by_x * along_x[x]
        before = min(np.int32(at), highest)
        part[x] = np.float32(at - before)
        whole[x] = np.int32(-1) if at < 0.0 or at > last else before


@compiled
def _image(coefficients: Any, begin: int, plane: int, row: int, deep: bool, whole: Any, part: Any, moved: Any) -> None:
    """A channel's voxels ``moved`` (N,) at the positions ``whole`` and ``part`` (3, N), 0 outside.

    begin: index in the flat ``coefficients`` of the first one that the spline at voxel 0, 0, 0 reads. deep: whether
    there are several planes.
    """
    whole_z, whole_y, whole_x = whole[0], whole[1], whole[2]
    z, y, x = part[0], part[1], part[2]
    for k in range(len(moved)):
        if (whole_z[k] | whole_y[k] | whole_x[k]) < 0:
            moved[k] = 0
        elif deep:
            at = begin + whole_z[k] * plane + whole_y[k] * row + whole_x[k]
            moved[k] = _spline_3d(coefficients, at, plane, row, z[k], y[k], x[k])
        else:
            moved[k] = _spline_2d(coefficients, begin + whole_y[k] * row + whole_x[k], row, y[k], x[k])


@compiled
def _share_of_two(first: Any, second: Any, label: Any, x: float) -> Any:
    here, there = 1.0 if first == label else 0.0, 1.0 if second == label else 0.0
    return here + x * (there - here)


@compiled
def _share(around: Any, label: Any, z: float, y: float, x: float) -> Any:
    """Linear share of a label at fractions ``z, y, x`` between 8 voxels, the last axis fastest."""
    a, b, c, d, e, f, g, h = around
    near, far = _share_of_two(a, b, label, x), _share_of_two(e, f, label, x)
    near += y * (_share_of_two(c, d, label, x) - near)
    far += y * (_share_of_two(g, h, label, x) - far)
    return near + z * (far - near)


@compiled
def _winner(around: Any, z: float, y: float, x: float) -> Any:
    """The label with the largest linear share at fractions ``z, y, x`` of the 8 voxels ``around``, the last axis
    fastest; of equal shares the nearest voxel's if it is among them, else the smallest.
    """
    one, other = around[0], around[0]
    for label in around:
        other = label if other == one else other
    only_these = True
    for label in around:
        only_these = only_these & ((label == one) | (label == other))
    nearest = around[(4 if z >= 0.5 else 0) + (2 if y >= 0.5 else 0) + (1 if x >= 0.5 else 0)]
    if only_these:
        share = _share(around, one, z, y, x)
        return nearest if share == 0.5 else (one if share > 0.5 else other)
    best, best_share, nearest_share = one, -1.0, -1.0
    for label in around:
        share = _share(around, label, z, y, x)
        if label == nearest:
            nearest_share = share
        if share > best_share or (share == best_share and label < best):
            best, best_share = label, share
    return nearest if nearest_share == best_share else best


@compiled
def _labels(labels: Any, begin: int, steps: Any, whole: Any, part: Any, outside: Any, moved: Any) -> None:
    """A map's labels ``moved`` (N,) at the positions ``whole`` and ``part`` (3, N); ``outside`` where there are none.

    begin: index in the flat ``labels`` of voxel 0, 0, 0. steps: from there to the next voxel along each axis, and 0
    where there is none.
    """
    whole_z, whole_y, whole_x = whole[0], whole[1], whole[2]
    z, y, x = part[0], part[1], part[2]
    plane, row, step_z, step_y, step_x = steps
    for k in range(len(moved)):
        if (whole_z[k] | whole_y[k] | whole_x[k]) < 0:
            moved[k] = outside
            continue
        at = begin + whole_z[k] * plane + whole_y[k] * row + whole_x[k]
        a, b = labels[at], labels[at + step_x]
        c, d = labels[at + step_y], labels[at + step_y + step_x]
        at += step_z
        e, f = labels[at], labels[at + step_x]
        g, h = labels[at + step_y], labels[at + step_y + step_x]
        if (a != b) | (a != c) | (a != d) | (a != e) | (a != f) | (a != g) | (a != h):
            moved[k] = _winner((a, b, c, d, e, f, g, h), np.float64(z[k]), np.float64(y[k]), np.float64(x[k]))
        else:
            moved[k] = a


@compiled
def warp(
    coefficients: Any,
    start: Any,
    labels: Any,
    affine: Any,
    offsets: Any,
    elastic: bool,
    outside: Any,
    moved: Any,
    moved_labels: Any,
) -> None:
    """Patches ``moved`` (C, Z, Y, X) and ``moved_labels`` (L, Z, Y, X) from the middle of their sources.

    coefficients: from ``prefilter``, of a box of the source that begins at voxel ``start``. labels: (L, Z, Y, X), of
    the source's size. affine: from an offset from the patch's centre to one from the source's, in voxels. offsets: (3,
    Z, Y, X) float32 voxels, added before ``affine``, if ``elastic``. outside: label where the patch reaches outside.
    """
    depth, height, width = moved.shape[1:]
    lengths = labels.shape[1:]
    flat, flat_labels = coefficients.reshape(-1), labels.reshape(-1)
    row = coefficients.shape[3]
    plane = coefficients.shape[2] * row
    deep = coefficients.shape[1] > 1
    volume = coefficients.shape[1] * plane
    begin = -(start[0] * plane + start[1] * row + start[2])
    label_row = lengths[2]
    label_plane = lengths[1] * label_row
    steps = (
        label_plane,
        label_row,
        label_plane if lengths[0] > 1 else 0,
        label_row if lengths[1] > 1 else 0,
        1 if lengths[2] > 1 else 0,
    )
    rows = max(1, TILE // width)
    whole = np.empty((3, rows * width), dtype=np.int32)
    part = np.empty((3, rows * width), dtype=np.float32)
    from_z, from_y, from_x = (depth - 1) / 2, (height - 1) / 2, (width - 1) / 2
    for first in range(0, height, rows):
        count = min(rows, height - first)
        for z in range(depth):
            for y in range(first, first + count):
                here = slice((y - first) * width, (y - first + 1) * width)
                for axis in range(3):
                    factors = affine[axis]
                    line = factors[0] * (z - from_z) + factors[1] * (y - from_y) - factors[2] * from_x
                    line += (lengths[axis] - 1) / 2
                    at_z, at_y = (z, y) if elastic else (0, 0)
                    _positions(
                        line,
                        factors,
                        elastic,
                        offsets[0, at_z, at_y],
                        offsets[1, at_z, at_y],
                        offsets[2, at_z, at_y],
                        lengths[axis] - 1,
                        whole[axis, here],
                        part[axis, here],
                    )
            tile = whole[:, : count * width], part[:, : count * width]
            target = (z * height + first) * width, (z * height + first + count) * width
            for channel in range(len(moved)):
                lines = moved[channel].reshape(-1)[target[0] : target[1]]
                _image(flat, begin + channel * volume, plane, row, deep, tile[0], tile[1], lines)
            for number in range(len(moved_labels)):
                lines_of_labels = moved_labels[number].reshape(-1)[target[0] : target[1]]
                _labels(
                    flat_labels,
                    number * lengths[0] * label_plane,
                    steps,
                    tile[0],
                    tile[1],
                    outside,
                    lines_of_labels,
                )

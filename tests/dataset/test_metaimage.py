"""MetaImage: the same voxels and grid as ITK reads, and headers that claim what is not so or point elsewhere."""

from __future__ import annotations

import os
import tracemalloc
import zlib

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_box.dataset.metaimage import geometry_of, grid_fields, open_metaimage, read_voxels, write_labels
from nnunet_box.dataset.volumes import read_header, read_volume
from nnunet_box.errors import InvalidData, NnboxError

VOXELS = np.random.default_rng(0).integers(-900, 900, (3, 4, 5)).astype(np.int16)
TURN = (0.96, -0.28, 0.0, 0.28, 0.96, 0.0, 0.0, 0.0, 1.0)
TURN_AND_TILT = tuple(
    (np.reshape(TURN, (3, 3)) @ np.array([[1.0, 0, 0], [0, 0.6, -0.8], [0, 0.8, 0.6]])).ravel().tolist()
)


def header(**changes):
    """A header of PROMISE12's kind; ``changes`` replace lines, None removes one."""
    lines = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False",
        "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "Offset": "-96.25 12.5 -40",
        "CenterOfRotation": "0 0 0",
        "AnatomicalOrientation": "RAI",
        "ElementSpacing": "0.625 0.75 3.6",
        "DimSize": "5 4 3",
        "ElementType": "MET_SHORT",
        "ElementDataFile": "a.raw",
    }
    last = changes.pop("ElementDataFile", "a.raw")
    lines = {**lines, **changes}
    lines.pop("ElementDataFile")
    lines["ElementDataFile"] = last
    return "".join(f"{key} = {value}\n" for key, value in lines.items() if value is not None)


def write(folder, content=None, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.mhd").write_text(header(**changes))
    (folder / "a.raw").write_bytes(VOXELS.tobytes() if content is None else content)
    return folder / "a.mhd"


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("suffix", [".mhd", ".mha"])
def test_files_of_itk_are_read_as_itk_reads_them(tmp_path, suffix, compressed):
    image = sitk.GetImageFromArray(VOXELS)
    image.SetSpacing((0.625, 0.75, 3.6))
    image.SetOrigin((-96.25, 12.5, -40.0))
    image.SetDirection(TURN_AND_TILT)
    path = tmp_path / f"a{suffix}"
    sitk.WriteImage(image, str(path), useCompression=compressed)
    assert (tmp_path / "a.zraw").is_file() == (compressed and suffix == ".mhd")
    again, volume = sitk.ReadImage(str(path)), read_volume(path)
    assert np.array_equal(volume.array, sitk.GetArrayFromImage(again))
    assert volume.array.dtype == np.int16
    assert volume.geometry.spacing == pytest.approx(again.GetSpacing()[::-1])
    assert volume.geometry.origin == pytest.approx(again.GetOrigin())
    assert volume.geometry.direction == pytest.approx(again.GetDirection())
    assert volume.header == {"format": suffix[1:], "dtype": "int16"}


@pytest.mark.parametrize(
    "dtype",
    [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64, np.float32, np.float64],
)
def test_every_type_itk_writes(tmp_path, dtype):
    sitk.WriteImage(sitk.GetImageFromArray(VOXELS.astype(dtype)), str(tmp_path / "a.mhd"))
    array = read_volume(tmp_path / "a.mhd").array
    assert np.array_equal(array, VOXELS.astype(dtype))
    assert array.dtype == dtype


def test_channels_on_the_fourth_axis(tmp_path):
    four = np.random.default_rng(1).integers(0, 99, (2, 3, 4, 5)).astype(np.uint8)
    image = sitk.GetImageFromArray(four, isVector=False)
    image.SetSpacing((0.5, 0.6, 0.7, 1.0))
    image.SetDirection(np.block([[np.reshape(TURN, (3, 3)), np.zeros((3, 1))], [np.zeros((1, 3)), 1]]).ravel())
    sitk.WriteImage(image, str(tmp_path / "a.mha"))
    geometry, channels, _ = read_header(tmp_path / "a.mha")
    assert (geometry.shape, channels) == ((3, 4, 5), 2)
    assert geometry.spacing == pytest.approx((0.7, 0.6, 0.5))
    assert geometry.direction == pytest.approx(TURN)
    assert np.array_equal(read_volume(tmp_path / "a.mha").array, four)


@pytest.mark.parametrize(
    ("binary", "element"), [("True", None), (None, "True"), ("True", "False"), ("False", "True"), (None, None)]
)
def test_byte_order_as_itk_takes_it(tmp_path, binary, element):
    stored = VOXELS.astype(">i2" if (binary or element) == "True" else "<i2")
    path = write(tmp_path, stored.tobytes(), BinaryDataByteOrderMSB=binary, ElementByteOrderMSB=element)
    array = read_volume(path).array
    assert np.array_equal(array, VOXELS)
    assert array.dtype == np.dtype(np.int16)
    assert np.array_equal(array, sitk.GetArrayFromImage(sitk.ReadImage(str(path))))


@pytest.mark.parametrize(
    "changes",
    [
        {"Offset": None, "Position": "-96.25 12.5 -40"},
        {"Offset": None, "Origin": "-96.25 12.5 -40"},
        {"TransformMatrix": None, "Rotation": "0 1 0 1 0 0 0 0 -1"},
        {"TransformMatrix": None, "Orientation": "0 1 0 0 0 1 1 0 0"},
        {"ElementSpacing": None, "ElementSize": "0.5 0.5 2"},
        {"ElementSpacing": None},
        {"Offset": None, "TransformMatrix": None, "CenterOfRotation": None, "AnatomicalOrientation": None},
        {"HeaderSize": "-1"},
    ],
)
def test_synonyms_and_absent_keys_as_itk_takes_them(tmp_path, changes):
    path = write(tmp_path, **changes)
    image, volume = sitk.ReadImage(str(path)), read_volume(path)
    assert np.array_equal(volume.array, sitk.GetArrayFromImage(image))
    assert volume.geometry.spacing == pytest.approx(image.GetSpacing()[::-1])
    assert volume.geometry.origin == pytest.approx(image.GetOrigin())
    assert volume.geometry.direction == pytest.approx(image.GetDirection())


@pytest.mark.parametrize("skipped", [-1, 7])
def test_bytes_before_the_voxels(tmp_path, skipped):
    path = write(tmp_path, b"preface" + VOXELS.tobytes(), HeaderSize=skipped)
    assert np.array_equal(read_volume(path).array, VOXELS)
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), VOXELS)


def test_windows_line_ends_and_a_folder_below(tmp_path):
    write(tmp_path)
    (tmp_path / "below").mkdir()
    (tmp_path / "a.raw").rename(tmp_path / "below" / "a.raw")
    path = tmp_path / "a.mhd"
    path.write_bytes(header(ElementDataFile="below/a.raw").replace("\n", "\r\n").encode())
    assert np.array_equal(read_volume(path).array, VOXELS)


def refused(path, expected, found):
    """Reading the header and reading the voxels are refused in the same words, and nothing large is held meanwhile."""
    tracemalloc.start()
    try:
        for read in (read_header, read_volume):
            with pytest.raises(InvalidData) as raised:
                read(path)
            assert raised.value.file == path
            assert expected in raised.value.expected
            assert found in raised.value.found
            assert raised.value.fix.endswith(".")
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


@pytest.fixture
def elsewhere(tmp_path):
    """Voxels outside the header's folder that would fit it."""
    file = tmp_path / "secret" / "a.raw"
    file.parent.mkdir()
    file.write_bytes(VOXELS.tobytes())
    return file


@pytest.mark.parametrize("form", ["absolute", "up", "up and down", "windows", "drive", "share"])
def test_voxels_outside_the_folder_are_not_read(tmp_path, elsewhere, form):
    name = {
        "absolute": str(elsewhere),
        "up": "../secret/a.raw",
        "up and down": "sub/../../secret/a.raw",
        "windows": "..\\secret\\a.raw",
        "drive": "C:\\secret\\a.raw",
        "share": "\\\\server\\secret\\a.raw",
    }[form]
    (tmp_path / "case" / "sub").mkdir(parents=True)
    path = write(tmp_path / "case", ElementDataFile=name)
    refused(path, "one file beside the header", f"{name}, outside the header's folder")


def test_link_out_of_the_folder_is_not_followed(tmp_path, elsewhere):
    path = write(tmp_path / "case")
    (path.parent / "a.raw").unlink()
    (path.parent / "a.raw").symlink_to(elsewhere)
    refused(path, "one file beside the header", "a link out of the header's folder")
    (path.parent / "a.raw").unlink()
    (path.parent / "way").symlink_to(elsewhere.parent)
    path.write_text(header(ElementDataFile="way/a.raw"))
    refused(path, "one file beside the header", "a link out of the header's folder")


def test_link_within_the_folder_and_linked_folder_are_followed(tmp_path):
    path = write(tmp_path / "case")
    (path.parent / "a.raw").rename(path.parent / "b.raw")
    (path.parent / "a.raw").symlink_to("b.raw")
    assert np.array_equal(read_volume(path).array, VOXELS)
    (tmp_path / "link").symlink_to(tmp_path / "case")
    assert np.array_equal(read_volume(tmp_path / "link" / "a.mhd").array, VOXELS)


@pytest.mark.parametrize("name", ["LIST", "List", "LIST 2", "slice%03d.raw 1 3 1", "%s"])
def test_slices_in_files_of_their_own_are_refused(tmp_path, name):
    refused(write(tmp_path, ElementDataFile=name), "one file beside the header", f"{name} (one file a slice)")


def test_voxels_that_are_no_file(tmp_path):
    path = write(tmp_path, ElementDataFile="gone.raw")
    refused(path, "the .raw file it names beside it (gone.raw)", "no such file")
    (tmp_path / "gone.raw").mkdir()
    refused(path, "the .raw file it names", "no such file")
    os.mkfifo(tmp_path / "pipe")
    path.write_text(header(ElementDataFile="pipe"))
    refused(path, "the .raw file it names", "no such file")
    (tmp_path / "loop.raw").symlink_to("loop.raw")
    path.write_text(header(ElementDataFile="loop.raw"))
    refused(path, "the .raw file it names", "no such file")
    path.write_text(header(ElementDataFile="x" * 5000))
    refused(path, "the .raw file it names", "no such file")


@pytest.mark.parametrize("compressed", ["False", "True"])
@pytest.mark.parametrize("sizes", ["100000 100000 100000", "1" + "0" * 15 + " 1 1", "4294967296 4294967296 2"])
def test_header_that_claims_a_petabyte(tmp_path, sizes, compressed):
    content = zlib.compress(VOXELS.tobytes()) if compressed == "True" else None
    path = write(tmp_path, content, DimSize=sizes, CompressedData=compressed)
    refused(path, "bytes of voxels (", f"bytes in {path.stem}.raw")


def test_local_header_that_claims_a_petabyte(tmp_path):
    path = tmp_path / "a.mha"
    path.write_bytes(header(DimSize="100000 100000 100000", ElementDataFile="LOCAL").encode() + VOXELS.tobytes())
    refused(path, "2000000000000000 bytes of voxels", "120 bytes in a.mha")


@pytest.mark.parametrize("change", [-1, 1, -120])
def test_raw_of_another_length(tmp_path, change):
    content = VOXELS.tobytes()
    path = write(tmp_path, content[:change] if change < 0 else content + b"x")
    refused(path, "120 bytes of voxels (5 x 4 x 3 MET_SHORT)", f"{120 + change} bytes in a.raw")


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.999])
def test_truncated_zraw(tmp_path, keep):
    voxels = np.random.default_rng(0).integers(0, 900, (3, 40, 50)).astype(np.int16)
    content = zlib.compress(voxels.tobytes())
    path = write(tmp_path, content[: int(len(content) * keep)], DimSize="50 40 3", CompressedData="True")
    with pytest.raises(InvalidData, match=r"12000 bytes of voxels .* bytes in the stream of a\.raw"):
        read_volume(path)


def test_zraw_that_holds_more_than_it_says_is_not_unpacked(tmp_path):
    path = write(tmp_path, zlib.compress(bytes(1 << 26)), CompressedData="True")
    tracemalloc.start()
    try:
        with pytest.raises(InvalidData, match="found more than 120 bytes"):
            read_volume(path)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


def test_zraw_that_claims_more_than_it_holds_takes_memory_for_what_it_holds(tmp_path):
    path = write(tmp_path, os.urandom(0) + zlib.compress(bytes(1000)), DimSize="5 400 3", CompressedData="True")
    with pytest.raises(InvalidData, match="12000 bytes of voxels .* 1000 bytes in the stream"):
        read_volume(path)


def test_zraw_with_a_flipped_bit(tmp_path):
    content = bytearray(zlib.compress(VOXELS.tobytes()))
    content[-2] ^= 0x10
    path = write(tmp_path, bytes(content), CompressedData="True")
    with pytest.raises(InvalidData, match="a corrupt stream"):
        read_volume(path)


@pytest.mark.parametrize(
    ("changes", "expected", "found"),
    [
        ({"NDims": "2", "DimSize": "5 12", "ElementSpacing": "1 1"}, "NDims 3", "2"),
        ({"NDims": "5"}, "NDims 3", "5"),
        ({"NDims": "three"}, "1 number in NDims", "three"),
        ({"NDims": None}, "a MetaImage header", "no NDims"),
        ({"DimSize": None}, "a MetaImage header", "no DimSize"),
        ({"DimSize": "5 4"}, "3 numbers in DimSize", "5 4"),
        ({"DimSize": "5 4 -3"}, "voxels along each axis", "5 4 -3"),
        ({"DimSize": "5 4 2.5"}, "voxels along each axis", "5 4 2.5"),
        ({"DimSize": "5 4 nan"}, "3 numbers in DimSize", "nan"),
        ({"DimSize": "9" * 400 + " 1 1"}, "3 numbers in DimSize", "999"),
        ({"ElementSpacing": "0.6 0 3"}, "positive spacing", "0.0"),
        ({"ElementSpacing": "0.6 inf 3"}, "3 numbers in ElementSpacing", "inf"),
        ({"Offset": "1 2"}, "3 numbers in Offset", "1 2"),
        ({"TransformMatrix": "1 0 0 0 1 0 0 0 0"}, "three directions", "1.0, 0.0"),
        ({"ElementType": "MET_UCHAR_ARRAY"}, "an ElementType of MET_CHAR", "MET_UCHAR_ARRAY"),
        ({"ElementNumberOfChannels": "3"}, "one number a voxel", "3"),
        ({"BinaryData": "False"}, "binary voxels", "False"),
        ({"HeaderSize": "9000"}, "120 bytes of voxels", "0 bytes"),
        ({"ElementDataFile": ""}, "one file beside the header", "nothing"),
    ],
)
def test_headers_that_cannot_be(tmp_path, changes, expected, found):
    refused(write(tmp_path, **changes), expected, found)


def test_headers_that_are_none(tmp_path):
    path = write(tmp_path)
    for content, found in (
        (b"", "0 bytes without it"),
        (os.urandom(64).replace(b"\n", b"x").replace(b"=", b"x") + b"\n", "a line"),
        (b"NDims = 3\n" * 2, "NDims twice"),
        (b"Comment = " + b"x" * (1 << 17), "65536 bytes without it"),
        (header().encode()[:-30], "without it"),
    ):
        path.write_bytes(content)
        refused(path, "a MetaImage header", found)


def test_written_labels_keep_the_grid_letter_by_letter(tmp_path):
    source = open_metaimage(
        write(
            tmp_path,
            Offset="-96.250000000000014 12.50 -4e1",
            TransformMatrix="0.99999999999 0 0 0 1 0 0 0 1.0",
            ElementSpacing="0.6250000238418579 0.75 3.5999999",
        )
    )
    labels = (VOXELS > 0).astype(np.uint8)
    write_labels(tmp_path / "out" / "Case00.mhd", labels, grid_fields(source))
    written = open_metaimage(tmp_path / "out" / "Case00.mhd")
    assert grid_fields(written) == grid_fields(source)
    assert {key: written.fields[key] for key in ("ElementType", "CompressedData", "ElementDataFile")} == {
        "ElementType": "MET_UCHAR",
        "CompressedData": "False",
        "ElementDataFile": "Case00.raw",
    }
    assert (tmp_path / "out" / "Case00.raw").read_bytes() == labels.tobytes()
    assert np.array_equal(read_voxels(written), labels)
    assert geometry_of(written) == geometry_of(source)
    image = sitk.ReadImage(str(tmp_path / "out" / "Case00.mhd"))
    assert np.array_equal(sitk.GetArrayFromImage(image), labels)
    assert image.GetPixelID() == sitk.sitkUInt8


def test_labels_of_another_shape_are_not_written(tmp_path):
    fields = grid_fields(open_metaimage(write(tmp_path)))
    with pytest.raises(InvalidData, match=r"labels of DimSize 5 4 3; found 4 5 3"):
        write_labels(tmp_path / "out.mhd", np.zeros((3, 5, 4), np.uint8), fields)
    assert not list(tmp_path.glob("*out*"))


def test_the_raw_file_is_put_in_place_first(tmp_path, monkeypatch):
    from pathlib import Path

    placed, rename = [], Path.replace

    def replace(self, target):
        placed.append(Path(target).name)
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    fields = grid_fields(open_metaimage(write(tmp_path)))
    write_labels(tmp_path / "out.mhd", np.zeros((3, 4, 5), np.uint8), fields)
    assert placed == ["out.raw", "out.mhd"]


@pytest.mark.parametrize("which", ["tofile", "write_text"])
def test_full_disk_leaves_the_older_pair(tmp_path, monkeypatch, which):
    from pathlib import Path

    fields = grid_fields(open_metaimage(write(tmp_path)))
    write_labels(tmp_path / "out.mhd", np.ones((3, 4, 5), np.uint8), fields)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    if which == "write_text":
        monkeypatch.setattr(Path, "write_text", full)
    else:
        monkeypatch.setattr(np, "ascontiguousarray", full)
    with pytest.raises(NnboxError, match="No space left"):
        write_labels(tmp_path / "out.mhd", np.zeros((3, 4, 5), np.uint8), fields)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mhd", "a.raw", "out.mhd", "out.raw"]
    assert (tmp_path / "out.raw").read_bytes() == bytes([1]) * 60

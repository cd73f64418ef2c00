"""Downloads made to harm: one message, nothing read or written elsewhere, no memory taken because a file says so."""

from __future__ import annotations

import gzip
import io
import os
import struct
import sys
import tarfile
import tracemalloc
import zipfile

import pytest
from tiny_downloads import gunzip

from nnbox_challenges.acdc import Acdc
from nnunet_box.cli.app import main
from nnunet_box.dataset.untrusted import check_gzip, check_source
from nnunet_box.dataset.volumes import read_volume
from nnunet_box.errors import InvalidData

PATIENT = "training/patient001"
FRAME = f"{PATIENT}/patient001_frame01.nii.gz"
DIM, DATATYPE, VOX_OFFSET, EXTENDER = 40, 70, 108, 348
"""Where NIfTI-1 keeps them."""


@pytest.fixture
def convert(acdc, tmp_path, monkeypatch, capsys):
    """Run ``nnbox convert`` on a download; it must refuse, with one line, and write nothing."""

    def run(source):
        monkeypatch.setattr(sys, "argv", ["nnbox", "convert", "-c", "acdc", str(source), "-w", str(tmp_path / "ws")])
        with pytest.raises(SystemExit) as ending:
            main()
        told = capsys.readouterr()
        lines = told.err.strip().splitlines()
        assert ending.value.code == 3 and told.out == ""
        assert lines[-1].startswith("nnbox: ") and not any("Traceback" in line for line in lines)
        assert not [path for path in (tmp_path / "ws").rglob("*") if path.is_file()]
        return lines[-1]

    return run


def link(kind, name, target):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def write_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../evil", "x")
        archive.writestr("/tmp/evil", "x")


def write_tar(path):
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("../evil"), io.BytesIO())
        archive.addfile(link(tarfile.SYMTYPE, "a", "/etc/passwd"))
        archive.addfile(link(tarfile.LNKTYPE, "b", "/etc/passwd"))
        archive.addfile(link(tarfile.CHRTYPE, "c", ""))


@pytest.mark.parametrize(("name", "write"), [("ACDC.zip", write_zip), ("ACDC.tar.gz", write_tar)])
def test_archives_are_not_opened(convert, tmp_path, name, write):
    write(tmp_path / name)
    told = convert(tmp_path / name)
    assert "found an archive" in told and "Unpack it" in told
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize("name", [FRAME, f"{PATIENT}/Info.cfg", PATIENT, "training", "training/MANDATORY_CITATION.md"])
def test_links_out_of_the_download(convert, acdc, tmp_path, name):
    elsewhere = tmp_path / "elsewhere"
    (acdc / name).rename(elsewhere)
    (acdc / name).symlink_to(elsewhere)
    told = convert(acdc)
    assert f"{acdc.resolve() / name}: expected" in told and f"a link out of its folder, to {elsewhere}" in told


def test_links_are_found_however_deep_an_adapter_looks(tmp_path):
    deep = tmp_path / "LiTS" / "/".join("abcdefgh")
    deep.mkdir(parents=True)
    (tmp_path / "volume-0.nii").write_bytes(b"x")
    (deep / "volume-0.nii").symlink_to(tmp_path / "volume-0.nii")
    with pytest.raises(InvalidData, match="a link out of its folder"):
        check_source(tmp_path / "LiTS")


def test_links_inside_it_and_the_folder_itself_as_a_link(acdc, tmp_path, monkeypatch):
    (acdc / FRAME).rename(acdc / "frame")
    (acdc / FRAME).symlink_to(acdc / "frame")
    (tmp_path / "given").symlink_to(acdc)
    given, workspace = str(tmp_path / "given"), str(tmp_path / "ws")
    monkeypatch.setattr(sys, "argv", ["nnbox", "convert", "-c", "acdc", given, "-w", workspace])
    with pytest.raises(SystemExit) as ending:
        main()
    assert ending.value.code == 0


def test_a_pipe_is_no_image(convert, acdc):
    (acdc / FRAME).unlink()
    os.mkfifo(acdc / FRAME)
    assert "patient001_frame01.nii.gz" in convert(acdc)


def change(path, *fields):
    raw = bytearray(gzip.decompress(path.read_bytes()))
    for at, form, *values in fields:
        struct.pack_into(form, raw, at, *values)
    path.write_bytes(gzip.compress(bytes(raw)))


HEADERS = {
    "10^15 voxels": ([(DIM, "<8h", 5, 32000, 32000, 32000, 31, 1, 1, 1)], "a header that claims"),
    "10^12 voxels": ([(DIM, "<8h", 3, 10000, 10000, 10000, 1, 1, 1, 1)], "a header that claims"),
    "voxels far away": ([(VOX_OFFSET, "<f", 2e9)], "vox_offset 2e+09"),
    "endless extension": (
        [(VOX_OFFSET, "<f", 400.0), (EXTENDER, "<4B", 1, 0, 0, 0), (EXTENDER + 4, "<2i", 2**31 - 16, 4)],
        "one of 2147483632 bytes",
    ),
    "magic": ([(344, "<4s", b"evil")], "do not open"),
}


@pytest.mark.parametrize("header", HEADERS)
def test_headers_that_lie(convert, acdc, header):
    fields, found = HEADERS[header]
    change(acdc / FRAME, *fields)
    tracemalloc.start()
    with pytest.raises(InvalidData) as raised:
        read_volume(acdc / FRAME)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found in raised.value.found
    assert peak < 8 << 20
    assert "patient001_frame01.nii.gz" in convert(acdc)


def test_an_uncompressed_header_that_lies(convert, acdc):
    change(acdc / FRAME, *HEADERS["10^12 voxels"][0])
    path = gunzip(acdc / FRAME)
    with pytest.raises(InvalidData, match="ends early"):
        read_volume(path)
    assert "patient001_frame01.nii: expected voxels" in convert(acdc)


def test_gzip_bomb(convert, acdc):
    raw = gzip.decompress((acdc / FRAME).read_bytes())
    (acdc / FRAME).write_bytes(gzip.compress(raw + bytes(64 << 20)))
    with pytest.raises(InvalidData, match="one that goes on"):
        check_gzip(acdc / FRAME)
    assert "one that goes on" in convert(acdc)


def test_padding_after_the_voxels_is_harmless(acdc):
    raw = gzip.decompress((acdc / FRAME).read_bytes())
    before = read_volume(acdc / FRAME).array
    (acdc / FRAME).write_bytes(gzip.compress(raw + bytes(1000)))
    check_gzip(acdc / FRAME)
    assert (read_volume(acdc / FRAME).array == before).all()
    assert Acdc().test_cases(acdc, 1)

"""Files of models and workspaces damaged by a seed, or put in their place by someone who means harm.

``CANARY`` stands for a file that none of them may bring about: whatever asks for it has run code.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

HUGE = 10**4400
STRANGE: tuple[Any, ...] = (
    None, True, -1, 0, 2**63, 1e308, float("nan"), float("inf"), "", "x" * 100000, "../../../etc/passwd", "/etc/passwd",
    "\x00", "3d_fullres/../../..", [], [[]], {}, {"a": {"b": 1}}, [1, "a", None], "1e9", 10**30, -0.5,
)  # fmt: skip


class Touch:
    """Unpickled by a reader that runs code, it makes a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return (os.open, (str(self.canary), os.O_CREAT))


def pickled(canary: Path) -> bytes:
    return pickle.dumps(Touch(canary))


def torch_saved(canary: Path) -> bytes:
    """What ``torch.save`` makes of an object with code: a zip with a pickle."""
    import torch

    stream = io.BytesIO()
    torch.save({"network_weights": Touch(canary), "a": torch.zeros(3)}, stream)
    return stream.getvalue()


def zipped(canary: Path) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("../evil", "x")
        archive.writestr("archive/data.pkl", pickled(canary))
    return stream.getvalue()


def tarred(canary: Path) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        info = tarfile.TarInfo("../evil")
        info.type, info.linkname = tarfile.SYMTYPE, str(canary)
        archive.addfile(info)
    return stream.getvalue()


FOREIGN: dict[str, Callable[[Path], bytes]] = {
    "pickle": pickled,
    "torch.save": torch_saved,
    "zip": zipped,
    "tar": tarred,
    "text": lambda canary: b"<html>Sign in to download</html>",
    "nothing": lambda canary: b"",
}
"""Content of another kind."""


def put(file: Path, content: bytes) -> None:
    """In place of a file, whatever it is."""
    if file.is_dir() and not file.is_symlink():
        shutil.rmtree(file)
    else:
        file.unlink(missing_ok=True)
    file.write_bytes(content)


def no_content(file: Path, random: np.random.Generator, canary: Path) -> bool:
    """Not a file at all, or one of elsewhere."""
    content = file.read_bytes()
    file.unlink()
    how = int(random.integers(5))
    if how == 0:
        file.mkdir()
    elif how == 1:
        os.mkfifo(file)
    elif how == 2:
        file.symlink_to(file)
    elif how == 3:
        file.symlink_to("/dev/zero")
    else:
        file.symlink_to("/nowhere")
    del content
    return True


def foreign(file: Path, random: np.random.Generator, canary: Path) -> bool:
    put(file, FOREIGN[str(random.choice(sorted(FOREIGN)))](canary))
    return True


def truncated(file: Path, random: np.random.Generator, canary: Path) -> bool:
    content = file.read_bytes()
    put(file, content[: int(random.integers(len(content) - 1))])
    return True


def flipped(file: Path, random: np.random.Generator, canary: Path) -> bool:
    content = bytearray(file.read_bytes())
    for _ in range(int(random.integers(1, 9))):
        content[int(random.integers(len(content)))] ^= 1 << int(random.integers(8))
    put(file, bytes(content))
    return False


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    return [path, *(place for key, one in inner for place in _places(one, (*path, key)))]


def other_value(file: Path, random: np.random.Generator, canary: Path) -> bool:
    """Somewhere in a JSON file a strange value, or one less."""
    value = json.loads(file.read_text())
    places = _places(value)
    place = places[int(random.integers(len(places)))]
    strange = STRANGE[int(random.integers(len(STRANGE)))]
    if not place:
        value = strange
    else:
        inside = value
        for key in place[:-1]:
            inside = inside[key]
        if random.random() < 0.2:
            del inside[place[-1]]
        else:
            inside[place[-1]] = strange
    put(file, json.dumps(value).encode())
    return False


def endless(file: Path, random: np.random.Generator, canary: Path) -> bool:
    """JSON that is deep, or has a number of thousands of digits, or ends in something else."""
    content = file.read_bytes().rstrip()
    options = [
        b"[" * 200000 + b"]" * 200000,
        b'{"a":' * 100000 + b"1" + b"}" * 100000,
        content[:-1] + b', "schema_version": ' + b"9" * 5000 + content[-1:],
        content + content,
        content[:-1] + b', "\\ud800": 1}',
        b"\xff\xfe" + content,
    ]
    how = int(random.integers(len(options)))
    put(file, options[how])
    return how not in (4,)


def other_header(file: Path, random: np.random.Generator, canary: Path) -> bool:
    """A safetensors header that lies: offsets that overlap or lead out, other shapes and types, an endless length."""
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    names = [name for name in header if name != "__metadata__"]
    entry = header[str(random.choice(names))]
    how = int(random.integers(9))
    if how == 0:
        entry["data_offsets"] = [0, 4]
    elif how == 1:
        entry["data_offsets"][1] = len(data) + 1000
    elif how == 2:
        entry["data_offsets"] = [2**62, 2**62 + 4]
    elif how == 3:
        entry["shape"] = [2**31, 2**31]
    elif how == 4:
        entry["shape"] = [*entry["shape"], 0]
    elif how == 5:
        entry["dtype"] = str(random.choice(["F16", "BF16", "I8", "F64", "F8_E4M3", "OBJECT", ""]))
    elif how == 6:
        entry["data_offsets"] = [-4, 0]
    packed = json.dumps(header).encode()
    size = 2**63 - 1 if how == 7 else len(packed)
    put(file, struct.pack("<Q", size) + (b"[" * len(packed) if how == 8 else packed) + data)
    return True


def other_tensors(file: Path, random: np.random.Generator, canary: Path) -> bool:
    """Well-formed, and not what belongs there: not finite, one missing, one more, other names, shapes or types."""
    from safetensors.numpy import load_file, save_file

    tensors = load_file(file)
    name = str(random.choice(sorted(tensors)))
    how = int(random.integers(7))
    if how == 0:
        tensors[name] = np.full_like(tensors[name], np.nan if tensors[name].dtype.kind == "f" else -1)
    elif how == 1:
        del tensors[name]
    elif how == 2:
        tensors["extra"] = np.zeros(3, np.float32)
    elif how == 3:
        tensors[f"{name}.other"] = tensors.pop(name)
    elif how == 4:
        tensors[name] = np.zeros((*tensors[name].shape, 2), tensors[name].dtype)
    elif how == 5:
        tensors[name] = tensors[name].astype(np.float64)
    else:
        tensors = {}
    file.unlink()
    save_file(tensors, file)
    return True


def lazy_array(file: Path, random: np.random.Generator, canary: Path) -> bool:
    """What blosc2 keeps of an expression over arrays: opened, it is compiled and computed."""
    import blosc2

    file.unlink()
    operand = blosc2.asarray(np.zeros((2, 3), np.float32), urlpath=str(file.with_name("operand.b2nd")), mode="w")
    (operand + 1).save(urlpath=str(file))
    return True


def other_array(file: Path, random: np.random.Generator, canary: Path) -> bool:
    """Another shape or type."""
    import blosc2

    old = blosc2.open(str(file), mode="r")[:]
    file.unlink()
    how = int(random.integers(4))
    new = (old[..., :-1], old[0], old.astype(np.complex64), np.zeros((1,) * old.ndim, old.dtype))[how]
    blosc2.asarray(np.ascontiguousarray(new), urlpath=str(file))
    return True


def pickle_inside(file: Path, random: np.random.Generator, canary: Path) -> bool:
    """A checkpoint of torch's whose pickle asks for more than tensors."""
    import torch

    values = torch.load(file, weights_only=False)
    place = str(random.choice(["network_weights", "init_args", "logging", "optimizer_state", "new"]))
    values[place] = Touch(canary)
    torch.save(values, file)
    return True


@dataclass(frozen=True)
class Damage:
    """change: (file, random, canary) to whether a command that reads the file has to refuse it."""

    name: str
    change: Callable[[Path, np.random.Generator, Path], bool]


GENERAL = (
    Damage("no file", no_content),
    Damage("foreign", foreign),
    Damage("truncated", truncated),
    Damage("bits", flipped),
)
BY_SUFFIX = {
    ".json": (*GENERAL, Damage("value", other_value), Damage("value", other_value), Damage("endless", endless)),
    ".safetensors": (*GENERAL, Damage("header", other_header), Damage("tensors", other_tensors)),
    ".b2nd": (*GENERAL, Damage("lazy array", lazy_array), Damage("array", other_array)),
    ".pth": (*GENERAL, Damage("pickle", pickle_inside)),
}
"""What is done to a file of a kind."""

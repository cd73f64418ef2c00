"""The folders an image is given, looked at before any work is done: there, readable, not empty, writable."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from nnunet_box.errors import InvalidData, NnboxError

MOUNT = "Name the right folder; in a container, mount it: docker run -v"


def this_user() -> str:
    """Who is at odds with a folder, as a message says it."""
    return f"uid {os.geteuid()}" if hasattr(os, "geteuid") else "this user"


def check_readable(folder: Path) -> None:
    """Refuse a folder of test data that is missing, empty or closed to this user.

    Raises
    ------
    InvalidData: naming the folder, what is wrong and, where it is about permission, the user.
    """
    expected = "a folder with test data"
    try:
        if not any(folder.iterdir()):
            raise InvalidData(folder, expected, "an empty folder", f"{MOUNT} TEST_FOLDER:{folder}:ro.")
    except FileNotFoundError as error:
        raise InvalidData(folder, expected, "no such folder", f"{MOUNT} TEST_FOLDER:{folder}:ro.") from error
    except NotADirectoryError as error:
        raise InvalidData(folder, expected, "a file", "Give the folder it lies in.") from error
    except PermissionError as error:
        raise unreadable(folder, expected) from error


def unreadable(path: Path, expected: str) -> InvalidData:
    """The refusal of a file or folder that this user may not read."""
    fix = "Let others read it (chmod -R a+rX), or run as its owner: docker run --user $(id -u):$(id -g)."
    return InvalidData(path, expected, f"one that {this_user()} may not read", fix)


def check_image_file(path: Path) -> None:
    """Refuse a link that leads to nothing (in a container those that leave the mount do), and a file that this user may
    not read.

    Raises
    ------
    InvalidData: with the link's target, or the user.
    """
    if path.is_symlink() and not path.exists():
        fix = "Mount the folder that holds the file itself, or copy the files."
        raise InvalidData(path, "a file", f"a link to {path.readlink()}, which is not there", fix)
    # Asked here, since readers of images tell a closed file from a damaged one no more.
    if path.exists() and not os.access(path, os.R_OK):
        raise unreadable(path, "an image")


def check_writable(output: Path) -> None:
    """Refuse an output folder that cannot be written before any work is done.

    Raises
    ------
    NnboxError: naming the folder and the user, the two things that are at odds.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        probe = output / f".nnbox-tmp-probe-{os.getpid()}"
        probe.touch()
        probe.unlink(missing_ok=True)  # another process may have swept it
    except OSError as error:
        reason = f"{output}: {this_user()} cannot write here ({error.strerror})."
        if error.errno == errno.EROFS:
            raise NnboxError(f"{reason} It is read-only: mount a folder there without :ro, -v OUT:{output}.") from error
        raise NnboxError(
            f"{reason} Give the folder to that user (chown or chmod), or run as its owner: "
            f"docker run --user $(id -u):$(id -g)."
        ) from error

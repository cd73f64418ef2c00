"""A user's own profile: a TOML file that names a known one and says what differs."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from nnbox_containers.profile import Profile
from nnunet_box.errors import InvalidData

LIMITS = ("limits", "strictest")
UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
FIX = "Correct it; nnbox profiles show NAME prints all fields of a profile."


def read_profile(file: Path, known: Mapping[str, Profile]) -> Profile:
    """The profile of a file: ``extends = "NAME"`` of ``known``, and the fields that differ.

    ``limits`` and ``strictest`` are tables of which only what differs is given too; sizes are bytes or ``"16G"``. The
    name is the file's unless it is given.

    Raises
    ------
    InvalidData: no TOML, an unknown field, or a value that a field does not take; names field and what is allowed.
    """
    try:
        given: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidData(file, "a profile (TOML)", f"{error.strerror}", "Give the path of the file.") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidData(file, "a profile (TOML)", str(error), FIX) from error
    parent = given.pop("extends", None)
    if not isinstance(parent, str) or parent not in known:
        raise InvalidData(file, f"extends = one of {', '.join(known)}", repr(parent), FIX)
    merged = asdict(known[parent]) | {"name": file.stem}
    for name, value in given.items():
        _check_known(file, name, merged, "")
        if name in LIMITS:
            if not isinstance(value, dict):
                raise InvalidData(file, f"{name} as a table: [{name}]", repr(value), FIX)
            for limit, amount in value.items():
                _check_known(file, limit, merged[name], f"{name}.")
                merged[name][limit] = _bytes(file, f"{name}.{limit}", amount) if limit.endswith("_bytes") else amount
        else:
            merged[name] = _bytes(file, name, value) if name.endswith("_bytes") else value
    try:
        profile = TypeAdapter(Profile).validate_python(merged)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InvalidData(file, f"another value of {field} ({first['msg']})", repr(first["input"]), FIX) from error
    _check(file, profile)
    return profile


def _check_known(file: Path, name: str, allowed: Mapping[str, Any], prefix: str) -> None:
    if name not in allowed:
        raise InvalidData(file, f"{prefix}FIELD one of {', '.join(sorted(allowed))}", f"{prefix}{name}", FIX)


def _bytes(file: Path, field: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"([0-9]+)\s*([bkmg]?)i?b?", value.strip().lower())
    if found is None:
        raise InvalidData(file, f'{field} as bytes or a size such as "16G"', repr(value), FIX)
    return int(found[1]) * UNITS[found[2]]


def _check(file: Path, profile: Profile) -> None:
    """What no type says: an image never runs as root, a server has a port."""
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", profile.name):
        raise InvalidData(file, "name of lower-case letters, digits and -", repr(profile.name), FIX)
    for field, user in (("user", profile.user), ("strictest.user", profile.strictest.user or profile.user)):
        if not re.fullmatch(r"[0-9]+:[0-9]+", user) or int(user.split(":")[0]) == 0:
            raise InvalidData(file, f"{field} as numbers UID:GID, not root", repr(user), FIX)
    if (profile.entry == "http") != (profile.port is not None) or not 0 < (profile.port or 1) < 1 << 16:
        raise InvalidData(file, "port between 1 and 65535 for entry http, and none for another", f"{profile.port}", FIX)
    if profile.entry == "http" and profile.layout != "sockets":
        raise InvalidData(file, "layout sockets for entry http", profile.layout, FIX)
    if profile.threads is not None and profile.threads < 1:
        raise InvalidData(file, "threads of at least 1", f"{profile.threads}", FIX)
    lines = [field.name for field in fields(profile) if "\n" in str(getattr(profile, field.name))]
    if lines:
        raise InvalidData(file, f"{lines[0]} in one line", "a line break", FIX)

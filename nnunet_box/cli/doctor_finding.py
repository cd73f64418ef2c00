"""One line of what ``nnbox doctor`` reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "missing", "optional"]


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    what: the thing that was looked at. found: how it is. advice: what to do; empty only where nothing is to be done.
    needed_for: the commands or options that need it; empty where all do.
    state: ``missing`` keeps those from running, ``warning`` makes them slow or likely to fail, ``optional`` is not
    there and needed for what ``needed_for`` says alone.
    """

    what: str
    state: State
    found: str
    advice: str = ""
    needed_for: str = ""

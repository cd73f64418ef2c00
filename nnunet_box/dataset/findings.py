"""What a check has found, in one form for data sets and for archives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nnunet_box.errors import InvalidData


@dataclass(frozen=True)
class Finding:
    """One thing wrong with a data set or an archive. ``error`` keeps it from being used or taken, ``warning`` does not.

    fixable: whether ``repair_dataset`` can do something about it.
    """

    severity: Literal["error", "warning"]
    file: str
    expected: str
    found: str
    fix: str
    fixable: bool = False

    @classmethod
    def of(cls, problem: InvalidData) -> Finding:
        return cls("error", str(problem.file), problem.expected, problem.found, problem.fix)

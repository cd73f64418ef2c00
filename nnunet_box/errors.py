"""Errors a person reads: one clear message each, and the exit code the command line ends with."""

from __future__ import annotations

from pathlib import Path

LONGEST = 1000
"""Characters of what is told of a file."""


def _plain(text: str) -> str:
    text = " ".join(text.split()) if "\n" in text or "\r" in text else text
    text = text if text.isprintable() else "".join(one if one.isprintable() else "?" for one in text)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."


class NnboxError(Exception):
    """Base of every error that ends in a message instead of a traceback."""

    exit_code = 1


class UsageError(NnboxError):
    """The command was asked for something that cannot be."""

    exit_code = 2


class InvalidData(NnboxError):
    """A file or folder is not what it has to be.

    Parameters
    ----------
    file: the file or folder at fault.
    expected, found: what it has to be, what it is; shown in one line, however long, and without what would control a
        terminal, since much of it is the file's own words.
    fix: what the person can do about it.
    """

    exit_code = 3

    def __init__(self, file: Path | str, expected: str, found: str, fix: str) -> None:
        expected, found = _plain(expected), _plain(found)
        self.file, self.expected, self.found, self.fix = Path(file), expected, found, fix
        super().__init__(f"{file}: expected {expected}; found {found}. {fix}")

    def __reduce__(self) -> tuple[type[InvalidData], tuple[str, str, str, str]]:
        """Worker processes send their errors home; the default would call the constructor with the message alone."""
        return type(self), (str(self.file), self.expected, self.found, self.fix)


class EngineUnavailable(NnboxError):
    """No container engine answers."""

    exit_code = 4


class VerificationFailed(NnboxError):
    """A submission would be refused by its organiser."""

    exit_code = 5

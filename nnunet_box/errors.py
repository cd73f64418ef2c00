"""Errors a person reads: one clear message each, and the exit code the command line ends with."""

from __future__ import annotations

from pathlib import Path


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
    expected, found: what it has to be, what it is.
    fix: what the person can do about it.
    """

    exit_code = 3

    def __init__(self, file: Path | str, expected: str, found: str, fix: str) -> None:
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

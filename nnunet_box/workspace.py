"""Where everything a run makes lies (see the command line's contract)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

VALIDATION = "validation"
"""In a fold's folder: its network's predictions of the cases that it has not seen."""


@dataclass(frozen=True)
class Workspace:
    """Paths of one data set in one workspace."""

    root: Path
    dataset: str

    @property
    def preprocessed(self) -> Path:
        return self.root / "preprocessed" / self.dataset

    @property
    def fingerprint(self) -> Path:
        return self.preprocessed / "fingerprint.json"

    @property
    def plan(self) -> Path:
        return self.preprocessed / "plan.json"

    @property
    def splits(self) -> Path:
        return self.preprocessed / "splits.json"

    @property
    def contents(self) -> Path:
        return self.preprocessed / "contents.json"

    @property
    def request(self) -> Path:
        return self.root / "tasks" / self.dataset / "request.json"

    @property
    def models(self) -> Path:
        return self.root / "models" / self.dataset

    @property
    def selection(self) -> Path:
        return self.models / "selection.json"

    @property
    def bundle(self) -> Path:
        return self.root / "bundles" / self.dataset

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def report(self) -> Path:
        return self.root / "reports" / self.dataset

    def case_store(self, configuration: str) -> Path:
        return self.preprocessed / configuration

    def fold(self, model: str, fold: int) -> Path:
        return self.models / model / f"fold_{fold}"

    def lock(self, name: str) -> Path:
        """A lock (see ``locks.held``), outside of what is replaced as a whole."""
        return self.root / "locks" / self.dataset / f"{name}.lock"

    def task(self, name: str) -> Path:
        """What is known of a task's last run, and its log."""
        return self.root / "tasks" / self.dataset / name.replace("/", "-")

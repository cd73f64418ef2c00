"""A run's epochs in MLflow: on the server that ``MLFLOW_TRACKING_URI`` names, else in a file of the workspace.

The file is an SQLite data base, MLflow's own default; its store of plain files it refuses by now. ``mlflow-skinny`` has
the client; the data base needs SQLAlchemy and Alembic beside it. Only what looks at it (``mlflow ui``) is in the whole
package.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from nnunet_box.errors import InvalidData
from nnunet_box.files import read_json, write_json
from nnunet_box.locks import held
from nnunet_box.progress import say
from nnunet_box.training.run_log import Epoch
from nnunet_box.training.trackers import Ending, TrackedRun

if TYPE_CHECKING:
    from mlflow import MlflowClient

MARK, STORE = "mlflow.json", "mlflow.db"
"""In the fold's folder, which run it is; in the workspace's ``logs``, all runs."""
QUIET = {
    # Nothing of a person's runs goes elsewhere than where they ask.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # A server that is gone is told of after seconds, not minutes: it is tried again later.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "GIT_PYTHON_REFRESH": "quiet",
}
"""Of the environment, unless a person has set them."""
METRICS_AT_ONCE, PARAMETERS_AT_ONCE, LONGEST = 1000, 100, 6000
"""What MLflow takes in a request; characters of a parameter."""
STATES: dict[Ending, str] = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}


class MlflowTracker:
    """A fold is a run of the experiment that has the data set's name, or of ``MLFLOW_EXPERIMENT_NAME``. One that goes
    on is the same run; epochs that it has already are not logged again.
    """

    name = "MLflow"

    def __init__(self, run: TrackedRun) -> None:
        self.run, self.mark, self.store = run, run.folder / MARK, run.shared / STORE
        self.uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.store.resolve()}"
        # An address may hold a password.
        self.where = hashlib.sha256(self.uri.encode()).hexdigest()[:16]
        self.client: MlflowClient | None = None
        self.id, self.said = "", False
        self.known: set[int] = set()
        """Epochs that the run has."""

    @property
    def _local(self) -> bool:
        return not os.environ.get("MLFLOW_TRACKING_URI")

    def begin(self, lines: Sequence[Epoch]) -> None:
        """See ``Tracker``."""
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        # Two trainings that make a data base, or an experiment, at the same time would make two.
        lock: AbstractContextManager[None] = nullcontext()
        if self._local:
            self.store.parent.mkdir(parents=True, exist_ok=True)
            lock = held(self.store.with_suffix(".lock"), "MLflow's data base")
        with lock:
            self.client = MlflowClient(self.uri)
            self.id = self._before() or self._new()
        self._describe()
        self.known = {metric.step for metric in self.client.get_metric_history(self.id, "loss")}
        self._log(lines)
        if self._local and not self.said:
            self.said = True
            say(f"MLflow: mlflow ui --backend-store-uri {self.uri}")

    def epoch(self, line: Epoch) -> None:
        """See ``Tracker``."""
        self._log([line])

    def end(self, how: Ending) -> None:
        """See ``Tracker``."""
        assert self.client is not None
        self.client.set_terminated(self.id, STATES[how])

    def _before(self) -> str | None:
        """Id of the run that this one goes on with, where there is one."""
        from mlflow.exceptions import MlflowException

        assert self.client is not None
        try:
            kept: dict[str, Any] = read_json(self.mark, schema_version=1)
        except InvalidData:
            return None
        if (kept.get("where"), kept.get("key")) != (self.where, self.run.key):
            return None
        try:
            found = self.client.get_run(f"{kept.get('run')}")
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        return str(found.info.run_id) if found.info.lifecycle_stage == "active" else None

    def _new(self) -> str:
        assert self.client is not None
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or self.run.dataset
        experiment = self.client.get_experiment_by_name(name)
        if experiment is not None:
            number = experiment.experiment_id
        else:
            artifacts = self.store.with_suffix("").resolve().as_uri() if self._local else None
            number = self.client.create_experiment(name, artifact_location=artifacts)
        made = self.client.create_run(number, run_name=f"{self.run.model} fold {self.run.fold}")
        write_json(self.mark, {"schema_version": 1, "where": self.where, "key": self.run.key, "run": made.info.run_id})
        return str(made.info.run_id)

    def _describe(self) -> None:
        """The run goes on; its settings are those that it began with."""
        from mlflow.entities import Param

        assert self.client is not None
        self.client.update_run(self.id, status="RUNNING")
        there = self.client.get_run(self.id).data.params
        facts = [Param(key, value[:LONGEST]) for key, value in self.run.facts().items() if key not in there]
        for first in range(0, len(facts), PARAMETERS_AT_ONCE):
            self.client.log_batch(self.id, params=facts[first : first + PARAMETERS_AT_ONCE])

    def _log(self, lines: Sequence[Epoch]) -> None:
        from mlflow.entities import Metric

        assert self.client is not None
        metrics: list[Metric] = []
        for line in lines:
            if line.epoch in self.known:
                continue
            when = int(1000 * (line.ended or time.time()))
            new = [Metric(metric_name(name), value, when, line.epoch) for name, value in self.run.numbers(line).items()]
            # An epoch is in a request as a whole: its loss says that it is there.
            if len(metrics) + len(new) > METRICS_AT_ONCE:
                self.client.log_batch(self.id, metrics=metrics)
                metrics = []
            metrics += new
        self.client.log_batch(self.id, metrics=metrics)
        self.known |= {line.epoch for line in lines}


def metric_name(name: str) -> str:
    """As MLflow takes it: letters, digits and a few signs."""
    return re.sub(r"[^\w\-. :/]", "_", name)

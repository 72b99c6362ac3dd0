"""Logs to MLflow, configured by its own variables: MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME and so on."""

import contextlib
import io
import logging
import os
import time
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from toolkit.loggers.logger import CURVES, Mistake, hyperparameters, short_reason
from toolkit.run import Run

PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}  # the defaults wait for minutes in each epoch
PARAMS = 100  # the maximum in one request


class Logger:
    def folder(self) -> Path | None:
        store = urlsplit(mlflow.get_tracking_uri())
        if store.scheme in ("", "file"):
            return Path(url2pathname(store.path))
        return None if store.netloc else Path("mlruns")  # beside the database file

    def open(self, run: Run, id: str | None, epochs: int) -> str:
        for name, value in PATIENCE.items():
            os.environ.setdefault(name, value)
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        self.sent = None
        try:
            self.client = MlflowClient()
            self.id = id or self._new(run)
        except MlflowException as error:
            remedy = (
                "a folder needs MLFLOW_ALLOW_FILE_STORE=true"
                if "ALLOW_FILE_STORE" in str(error)
                else "is MLFLOW_TRACKING_URI right?"
            )
            raise ValueError(f"--log mlflow: {short_reason(error)}; {remedy}") from None
        return self.id

    def _new(self, run: Run) -> str:
        name, git = os.environ.get("MLFLOW_EXPERIMENT_NAME", "Default"), run.recipe["git"]
        experiment = os.environ.get("MLFLOW_EXPERIMENT_ID") or self._experiment(name)
        tags = {
            "mlflow.source.name": f"recipes.{run.recipe['recipe']}",
            **({"mlflow.source.git.commit": git} if git else {}),
        }
        id = self.client.create_run(experiment, tags=tags, run_name=run.folder.name).info.run_id
        params = [Param(name, str(value)) for name, value in hyperparameters(run).items()]
        for start in range(0, len(params), PARAMS):
            self.client.log_batch(id, params=params[start : start + PARAMS])
        return id

    def _experiment(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        return found.experiment_id if found else self.client.create_experiment(name)

    def log_epochs(self, rows: dict[int, dict[str, float]]) -> None:
        if self.sent is None:  # the store may know of more epochs than log.json, after a kill
            self.client.update_run(self.id, status="RUNNING")
            steps = (metric.step for name in CURVES for metric in self.client.get_metric_history(self.id, name))
            self.sent = max(steps, default=0)
        for epoch, row in rows.items():
            if epoch > self.sent:
                self._metrics(epoch, row)
                self.sent = epoch

    def _metrics(self, step: int, figures: dict[str, float]) -> None:
        now = int(time.time() * 1000)
        self.client.log_batch(self.id, metrics=[Metric(name, value, now, step) for name, value in figures.items()])

    def log_results(self, epoch: int, figures: dict[str, float], wrong: list[Mistake], model: Path | None) -> None:
        for mistake in wrong:
            self.client.log_image(self.id, mistake.pixels, artifact_file=f"mistakes/{mistake.name}.png")
        if model:
            self.client.log_artifact(self.id, str(model))
        # last, because after an error files may be sent twice, but not metrics
        self._metrics(epoch, {f"best/{name}": value for name, value in figures.items()})

    def close(self, status: str) -> None:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints a runner and an address
            self.client.set_terminated(self.id, status)

"""Logs to trackio, configured by its own variables: TRACKIO_DIR, TRACKIO_SPACE_ID, TRACKIO_SERVER_URL.

`trackio show` shows the runs. The project is TRACKIO_PROJECT, else rapid-finetune. trackio 0.43 prints curves
that it can't send as warnings, keeps them, and sends them when it is started again.
"""

import contextlib
import io
import os
import secrets
from pathlib import Path

import trackio
from trackio.utils import TRACKIO_DIR

from toolkit.loggers.logger import Mistake, hyperparameters, short_reason
from toolkit.run import Run

PROJECT = "rapid-finetune"


class Logger:
    def folder(self) -> Path:
        return Path(TRACKIO_DIR)

    def open(self, run: Run, id: str | None, epochs: int) -> str:
        project = os.environ.get("TRACKIO_PROJECT", PROJECT)
        quiet = {"embed": False, "auto_log_cpu": False, "auto_log_gpu": False}  # its own threads would measure these
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # a dozen lines
                self.run = trackio.init(
                    project=project,
                    name=id or f"{run.folder.name}-{secrets.token_hex(3)}",  # it finds a run again by its name
                    config=hyperparameters(run),
                    resume="allow" if id else "never",
                    **quiet,
                )
        except Exception as error:
            raise ValueError(f"--log trackio: {short_reason(error)}") from error
        # it may know of more epochs than log.json, after a kill; 0.43 has no public way to ask
        self.epochs = max(epochs, self.run._next_step - 1)
        where = os.environ.get("TRACKIO_SPACE_ID") or os.environ.get("TRACKIO_SERVER_URL") or TRACKIO_DIR
        print(f"trackio      {where}; `trackio show --project {project}`", flush=True)
        return self.run.name

    def log_epochs(self, rows: dict[int, dict[str, float]]) -> None:
        for epoch, row in rows.items():
            if epoch > self.epochs:
                self.run.log(row, step=epoch)

    def log_results(self, epoch: int, figures: dict[str, float], wrong: list[Mistake], model: Path | None) -> None:
        results = {f"best/{name}": value for name, value in figures.items()}
        images = {f"mistakes/{each.name}": trackio.Image(each.pixels, caption=each.caption) for each in wrong}
        self.run.log(results | images, step=epoch)
        if model:
            self.run.log_artifact(str(model), name=f"model-{self.run.id}", type="model")

    def close(self, status: str) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            current = trackio.context_vars.current_run.get() is self.run
            (trackio.finish if current else self.run.finish)()

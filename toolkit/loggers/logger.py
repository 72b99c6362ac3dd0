"""The interface of a logger that tensorboard.py, wandb.py, mlflow.py and trackio.py implement, and what they share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from toolkit.errors import first_line
from toolkit.run import Run

CURVES = "train_loss valid_loss accuracy lr".split()  # columns of history.csv that are logged


@dataclass(frozen=True)
class Mistake:
    "A photo that is predicted wrong. pixels: a thumbnail, uint8 RGB [height, width, 3]; caption: label and prediction."

    name: str  # of a file, without suffix
    caption: str
    pixels: np.ndarray


class Logger(Protocol):
    """The class `Logger` of toolkit.loggers.<name>.

    `open` raises ValueError if it can't start; the message says why and what to do. Other methods may raise any error:
    it is printed, and training goes on.
    """

    def folder(self) -> Path | None:
        "The folder outside the run folder in which it keeps images on this machine; None if there is none."

    def open(self, run: Run, id: str | None, epochs: int) -> str:
        "Start to log `run`, or continue under `id` after `epochs` epochs. Returns the id, which log.json keeps."

    def log_epochs(self, rows: dict[int, dict[str, float]]) -> None:
        "Log the CURVES of each epoch, by its number, each epoch once."

    def log_results(self, epoch: int, figures: dict[str, float], wrong: list[Mistake], model: Path | None) -> None:
        "Log the final results after `epoch` epochs."

    def close(self, status: str) -> None:
        "Send what has not been sent. status: FINISHED, KILLED (interrupted) or FAILED."


def hyperparameters(run: Run) -> dict[str, Any]:
    "The recipe, its options, and the fingerprint of the data."
    return {"recipe": run.recipe["recipe"], **run.recipe["options"], "fingerprint": run.recipe["data"]["fingerprint"]}


def short_reason(error: Exception) -> str:
    "The message of a library's error as one short line."
    return f"{first_line(error).partition(' with url:')[0].rstrip('.'):.240}"

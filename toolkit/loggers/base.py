"""A run's curves, options, figures, mistakes and model file, sent to where people already look.

    python -m recipes.hw1 --log tensorboard wandb mlflow

All of it is read from the run folder, so a logger may be added, or be away for a while, and catches up; log.json there
says how far each has come. fastai has callbacks for two of the three, and neither is right here, in 2.8.12:
TensorBoardCallback and WandbCallback log every batch, for which a GPU waits, with the optimiser's step of this process
as the step, so that a resumed run's curves lie over each other; they pass photos through the model in between, which
draws random numbers that a resume must draw again; and WandbCallback's model is fastai's pickle, not model.onnx.
"""

import base64
import importlib
import io
import math
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from fastai.callback.core import Callback
from fastai.learner import Learner
from PIL import Image

from toolkit import ranks
from toolkit.evaluation import mistakes
from toolkit.evaluation.results import HISTORY, read_predictions
from toolkit.files import read_csv, write_json
from toolkit.run import Run

LOGGERS = ("tensorboard", "wandb", "mlflow")
CURVES = "train_loss valid_loss accuracy lr".split()


@dataclass(frozen=True)
class Mistake:
    "A photo taken for another class: pixels uint8 RGB [height, width, 3], small; caption says which for which."

    name: str  # of a file, without suffix
    caption: str
    pixels: np.ndarray


class Logger(Protocol):
    "What toolkit.log_<name> has. Each may raise OSError and those of `faults` when what it logs to is away."

    faults: tuple[type[Exception], ...]

    def folder(self) -> Path | None:
        "Where it keeps pictures on this machine, outside the run folder; None where it keeps none."

    def open(self, run: Run, id: str | None, epochs: int) -> str:
        """Begin to log `run`, or go on under `id` after `epochs` epochs; its id, kept in log.json.

        Raises ValueError where it can't begin: what is wrong and what to do.
        """

    def curves(self, rows: dict[int, dict[str, float]]) -> None:
        "Log CURVES of each epoch, by its number, but not twice."

    def results(self, epoch: int, figures: dict[str, float], wrong: list[Mistake], model: Path | None) -> None:
        "Log what came out, after so many epochs."

    def close(self, status: str) -> None:
        "Send what is still here; status: FINISHED, KILLED (interrupted) or FAILED."


def loggers(names: list[str] | None) -> dict[str, Logger]:
    """The loggers called `names`, nothing begun; of several processes the first has them.

    Raises ValueError for another name, ImportError for a missing library.
    """
    found = {}
    for name in names or ():
        if name not in LOGGERS:
            raise ValueError(f"--log {name}: give one or more of {', '.join(LOGGERS)}")
        if find_spec(name) is None:
            raise ImportError(f"--log {name} needs {name}: pip install -c constraints.txt -e '.[{name}]'")
        found[name] = importlib.import_module(f"toolkit.loggers.{name}").Logger()
    return {} if ranks.rank() else found


def folders(chosen: dict[str, Logger]) -> dict[str, Path | None]:
    "Where each keeps pictures on this machine, by the words that choose it."
    return {f"--log {name}": logger.folder() for name, logger in chosen.items()}


@contextmanager
def logged(learn: Learner, run: Run, chosen: dict[str, Logger]) -> Iterator[None]:
    """Inside, each epoch of `learn` is logged as it ends; after, what came out, or that it was interrupted or failed.

    Raises ValueError where a logger can't begin. Once it has, its trouble is a line on stderr and nothing more: what
    was not sent goes with the next epoch's, or with `--resume`.
    """
    log = Logging(run, chosen)
    status = "FAILED"
    try:
        log.open()
        with learn.added_cbs([log] if chosen else []):
            yield
        log.send(results=True)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        log.close(status)


class Logging(Callback):
    "Sends each epoch's row of history.csv when it is there."

    order = 76  # after Checkpoint, which writes it

    def __init__(self, run: Run, chosen: dict[str, Logger]):
        self.target, self.chosen, self.opened = run, chosen, []
        self.done = run.read_json("log.json") if run.path("log.json").is_file() else {}
        self.done |= {name: {"id": None, "epochs": 0, "results": 0} for name in chosen if name not in self.done}

    def open(self) -> None:
        for name, logger in self.chosen.items():
            done = self.done[name]
            done["id"] = logger.open(self.target, done["id"], done["epochs"])
            self.opened.append(name)
            self._keep()

    def _keep(self) -> None:
        write_json(self.target.path("log.json"), self.done)

    def after_epoch(self) -> None:
        self.send()

    def send(self, results: bool = False) -> None:
        "Send the epochs that have ended since the last time, and what came out."
        rows = read_rows(self.target)
        for name in self.opened:
            logger, done = self.chosen[name], self.done[name]
            with _told(name, logger, "goes with what is sent next, or with --resume"):
                logger.curves({epoch: row for epoch, row in rows.items() if epoch > done["epochs"]})
                done["epochs"] = len(rows)
                if results and done["results"] < len(rows):
                    logger.results(len(rows), *read_results(self.target))
                    done["results"] = len(rows)
        if self.opened:
            self._keep()

    def close(self, status: str) -> None:
        for name in self.opened:
            with _told(name, self.chosen[name], "is in the run's files"):
                self.chosen[name].close(status)


@contextmanager
def _told(name: str, logger: Logger, remedy: str) -> Iterator[None]:
    "A logger that is away is told of, and no reason to end a training run."
    try:
        yield
    except (OSError, *logger.faults) as error:
        print(f"--log {name}: {line(error)}; what is missing there {remedy}", file=sys.stderr, flush=True)


def line(error: Exception) -> str:
    "What a library's error says, on one short line."
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"{text.partition(' with url:')[0].rstrip('.'):.240}"


# The run's files


def read_rows(run: Run) -> dict[int, dict[str, float]]:
    "CURVES of each epoch that has ended; infinite figures are left out."
    if not run.path("history.csv").is_file():
        return {}
    _, *rows = read_csv(run.path("history.csv"), HISTORY)
    named = [dict(zip(HISTORY, map(float, row), strict=True)) for row in rows]
    return {int(row["epoch"]): {key: row[key] for key in CURVES if math.isfinite(row[key])} for row in named}


def read_results(run: Run) -> tuple[dict[str, float], list[Mistake], Path | None]:
    "The figures of metrics.json, the most confident mistakes with their photos, and model.onnx, what there is."
    figures = {name: float(value) for name, value in run.metrics.items() if type(value) in (int, float)}
    model = run.path("model.onnx")
    return figures, list(_mistakes(run)), model if model.is_file() else None


def _mistakes(run: Run) -> Iterator[Mistake]:
    predictions = read_predictions(run)
    if predictions is None:
        return
    chosen = mistakes.top(predictions.wrong, predictions.confidence, mistakes.GALLERY)
    small = mistakes.thumbnails(Path(run.recipe["data"]["path"]), {predictions.files[i] for i in chosen})
    for rank, i in enumerate(chosen, 1):
        label, taken = (predictions.classes[index[i]] for index in (predictions.labels, predictions.predictions))
        if uri := small.get(predictions.files[i]):  # None of a photo that has moved since
            jpeg = base64.b64decode(uri.partition(",")[2])
            name = re.sub(r"[^\w.+-]+", "-", f"{rank:02}-{label}-taken-for-{taken}")[:80]
            caption = f"{label} taken for {taken}, {predictions.confidence[i]:.1%}: {predictions.files[i]}"
            yield Mistake(name, caption, np.array(Image.open(io.BytesIO(jpeg))))


def options(run: Run) -> dict[str, Any]:
    "The hyperparameters: the run's options, and where its data and weights are from."
    return {"recipe": run.recipe["recipe"], **run.recipe["options"], "fingerprint": run.recipe["data"]["fingerprint"]}

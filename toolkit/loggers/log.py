"""Send a run's curves, options, metrics, mistakes and model file to TensorBoard, Weights & Biases, MLflow or trackio.

    python -m recipes.hw1 --log tensorboard wandb mlflow

All of it is read from the run folder. So a logger may be added later or be unavailable for a while, and catches up;
log.json records how far each logger is. fastai's own callbacks do not fit here (2.8.12): TensorBoardCallback and
WandbCallback log every batch, for which a GPU waits; their step is the optimizer step of this process, so that the
curves of a resumed run overlap; they pass photos through the model in between, which draws random numbers that a resume
must draw again; and WandbCallback's model is fastai's pickle, not model.onnx.
"""

import importlib
import math
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from fastai.callback.core import Callback
from fastai.learner import Learner

from toolkit import ranks
from toolkit.data.on_disk.photo_files import root_of
from toolkit.evaluation.best_epoch import FROM_CONFUSION
from toolkit.evaluation.mistakes import most_confident_mistakes, thumbnails
from toolkit.evaluation.results import read_history, read_predictions
from toolkit.files import write_json
from toolkit.loggers.logger import CURVES, Logger, Mistake, short_reason
from toolkit.run import Run

LOGGERS = ("tensorboard", "wandb", "mlflow", "trackio")


def loggers(names: list[str] | None) -> dict[str, Logger]:
    """The loggers with these names, not started yet. Empty on ranks above 0.

    Raises ValueError for an unknown name, ImportError if a library is not installed.
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
    "The folder in which each logger keeps images on this machine, by the option that chooses it."
    return {f"--log {name}": logger.folder() for name, logger in chosen.items()}


@contextmanager
def logged(learn: Learner, run: Run, chosen: dict[str, Logger]) -> Iterator[None]:
    """Log each epoch of `learn` inside the block as it ends; after the block the results and the run's status.

    Raises ValueError if a logger can't start. After that its errors are lines on stderr: what was not sent is sent
    with the next epoch, or with `--resume`.
    """
    log = LogEpochs(run, chosen)
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


class LogEpochs(Callback):
    "Sends each epoch's row of history.csv after it is written."

    order = 76  # after Checkpoint, which writes history.csv

    def __init__(self, run: Run, chosen: dict[str, Logger]):
        self.target, self.chosen, self.opened = run, chosen, []
        self.sent = run.read_json("log.json") if run.path("log.json").is_file() else {}
        self.sent |= {name: {"id": None, "epochs": 0, "results": 0} for name in chosen if name not in self.sent}

    def open(self) -> None:
        "Start every logger. Raises ValueError if one can't start."
        for name, logger in self.chosen.items():
            sent = self.sent[name]
            try:
                sent["id"] = logger.open(self.target, sent["id"], sent["epochs"])
            except Exception as error:
                if str(error).startswith("--log "):
                    raise
                raise ValueError(f"--log {name} can't start: {short_reason(error)}") from error
            self.opened.append(name)
            self._write_log()

    def _write_log(self) -> None:
        write_json(self.target.path("log.json"), self.sent)

    def after_epoch(self) -> None:
        self.send()

    def send(self, results: bool = False) -> None:
        "Send the epochs that have ended since the last time, and the results if asked."
        epochs = finished_epochs(self.target)
        for name in self.opened:
            logger, sent = self.chosen[name], self.sent[name]
            with _printing_errors(name, "what is missing there is sent next time, or with --resume"):
                logger.log_epochs({epoch: row for epoch, row in epochs.items() if epoch > sent["epochs"]})
                sent["epochs"] = len(epochs)
                if results and sent["results"] < len(epochs):
                    logger.log_results(len(epochs), *final_results(self.target))
                    sent["results"] = len(epochs)
        if self.opened:
            self._write_log()

    def close(self, status: str) -> None:
        for name in self.opened:
            with _printing_errors(name, "what is missing there is in the run's files"):
                self.chosen[name].close(status)


@contextmanager
def _printing_errors(name: str, remedy: str) -> Iterator[None]:
    "Print any error of a logger, whose library may raise another library's: none is a reason to end a training run."
    try:
        yield
    except Exception as error:
        print(f"--log {name}: {short_reason(error)}; {remedy}", file=sys.stderr, flush=True)


# Read from the run's files


def finished_epochs(run: Run) -> dict[int, dict[str, float]]:
    "The CURVES of each finished epoch by its number, and the figure of --best; infinite values and nan are left out."
    history = read_history(run)
    names = [name for name in history if name in (*CURVES, *FROM_CONFUSION)]
    return {
        int(epoch): {name: float(history[name][i]) for name in names if math.isfinite(history[name][i])}
        for i, epoch in enumerate(history.get("epoch", ()))
    }


def final_results(run: Run) -> tuple[dict[str, float], list[Mistake], Path | None]:
    "(numbers of metrics.json, most confident mistakes, model.onnx), as far as they exist."
    figures = {name: float(value) for name, value in run.metrics.items() if type(value) in (int, float)}
    model = run.path("model.onnx")
    return figures, list(_mistakes(run)), model if model.is_file() else None


def _mistakes(run: Run) -> Iterator[Mistake]:
    predictions = read_predictions(run)
    if predictions is None:
        return
    chosen = most_confident_mistakes(predictions)
    small = thumbnails(root_of(run.recipe["data"]["path"]), {predictions.files[i] for i in chosen})
    for number, i in enumerate(chosen, 1):
        file = predictions.files[i]
        label, prediction = (predictions.classes[index[i]] for index in (predictions.labels, predictions.predictions))
        if file in small:  # a photo may have moved since
            name = re.sub(r"[^\w.+-]+", "-", f"{number:02}-{label}-mistaken-for-{prediction}")[:80]
            caption = f"{label} mistaken for {prediction}, {predictions.confidence[i]:.1%}: {file}"
            yield Mistake(name, caption, small[file])

"""Training into a run folder: begin or take up a run, keep the best weights, write each epoch, evaluate the best."""

import csv
import io
import random
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastai.callback.core import Callback
from fastai.learner import Learner
from fastai.torch_core import find_bs
from fastcore.imports import IN_NOTEBOOK
from safetensors.torch import save_file

from toolkit import metrics
from toolkit.learner import load_weights
from toolkit.run import Run, git_revision, replacing, versions, write_atomic, write_json

HISTORY = "epoch train_loss valid_loss accuracy lr seconds".split()
NEEDED = {"loss", "arch", "lr", "bs", "accum", "seed"}  # what `toolkit.learner.rebuild` goes by
FREE = {"data", "epochs", "workers", "device", "out", "resume"}  # may change on resume; the data by its fingerprint


def begin(folder: Path, recipe: str, options: dict[str, Any], learn: Learner) -> Run:
    """The run in `folder`: a new one, its recipe.json written, or the one that is there to be resumed.

    options: the recipe's own, as its command line names them; what `auto` chose is put in their place.
    Raises ValueError for options too few to rebuild it by, and where a run is resumed by another method or on other
    data than it was begun with.
    """
    if missing := sorted(NEEDED - options.keys()):
        raise ValueError(f"options lack {', '.join(missing)}: without it the run can't be rebuilt")
    chosen = {
        "device": str(learn.dls.device),
        "precision": learn.precision,
        "workers": learn.dls.train.fake_l.num_workers,
    }
    options = {name: str(value) if isinstance(value, Path) else value for name, value in (options | chosen).items()}
    said = _recipe(recipe, options, learn)
    run = Run(folder)
    if run.path("recipe.json").is_file():
        _same_method(run, said)
        said |= {"created": run.recipe["created"]}
    write_json(run.path("recipe.json"), said)
    _tell(folder, said)
    return Run(folder)


def _recipe(recipe: str, options: dict[str, Any], learn: Learner) -> dict[str, Any]:
    "recipe.json: all it takes to know what was run, and to run it again."
    data, model = learn.dls.data, learn.model
    return {
        "recipe": recipe,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "options": options,
        "classes": list(learn.dls.vocab),
        "preprocess": learn.dls.preprocess,
        "augment": learn.dls.augment,
        "model": {"arch": options["arch"], "parameters": sum(weight.numel() for weight in model.parameters())},
        "weights": model.origin,
        "versions": versions(),
        "git": git_revision(),
        "data": {
            "path": str(data.path.resolve()),
            "fingerprint": data.fingerprint,
            "train": len(data.train),
            "valid": len(data.valid),
            "test": len(data.test),
            "counts": data.counts,
        },
    }


def _same_method(run: Run, said: dict[str, Any]) -> None:
    before = run.recipe
    for name in sorted((said["options"].keys() | before["options"].keys()) - FREE):
        old, new = before["options"].get(name), said["options"].get(name)
        if old != new:
            raise ValueError(
                f"--resume {run.folder}: it was begun with --{name} {old}, now it is {new}; "
                "resume with the old value, or give another --out"
            )
    if before["data"]["fingerprint"] != said["data"]["fingerprint"]:
        raise ValueError(f"--resume {run.folder}: the photos are not those it was begun with; give another --out")


def _tell(folder: Path, said: dict[str, Any]) -> None:
    "In three lines, what runs, on what, and what `auto` and the weights came to."
    options, data, weights, classes = said["options"], said["data"], said["weights"], len(said["classes"])
    left_out = f", {', '.join(weights['left_out'])} left out" if weights["left_out"] else ""
    print(
        f"{said['recipe']}: {classes} classes, {data['train']} photos to train, {data['valid']} to validate\n"
        f"{options['arch']}, {said['model']['parameters']:,} parameters; {weights['loaded']} tensors loaded from "
        f"{weights['source']}{left_out}\n"
        f"on {options['device']} in {options['precision']}, {options['workers']} workers; run folder {folder}",
        flush=True,
    )


def fit(learn: Learner, run: Run, epochs: int) -> None:
    """Train `learn` up to `epochs` epochs from wherever `run` stands; in the end it has the best weights.

    After each epoch history.csv and last.pt are written, and best.safetensors if the accuracy is the best yet.
    """
    if epochs < 1:
        raise ValueError(f"--epochs {epochs}: give 1 or more")
    checkpoint = Checkpoint(run, epochs)
    if checkpoint.finished >= epochs:
        print(f"all {epochs} epochs are done", flush=True)
    elif checkpoint.finished:
        print(f"going on after epoch {checkpoint.finished} of {epochs}", flush=True)
    with nullcontext() if IN_NOTEBOOK or sys.stdout.isatty() else _epoch_lines(learn):
        if checkpoint.finished < epochs:
            try:
                learn.fit(epochs - checkpoint.finished, cbs=checkpoint)
            except KeyboardInterrupt:
                saved = f"epoch {checkpoint.finished} of {epochs} is saved, go on with --out {run.folder} --resume"
                raise KeyboardInterrupt(f"interrupted: {saved}") from None
    load_weights(learn.model, run.path("best.safetensors"))


@contextmanager
def _epoch_lines(learn: Learner) -> Iterator[None]:
    "One plain line an epoch instead of a progress bar, whose control characters would flood a pipe."
    with learn.no_bar(), learn.no_logging(), learn.added_cbs(EpochLines()):
        yield


class EpochLines(Callback):
    "One plain line an epoch, the row that went into history.csv."

    order = 75  # after Checkpoint

    def after_epoch(self) -> None:
        row = dict(zip(HISTORY, self.checkpoint.rows[-1], strict=True))
        print(
            f"epoch {row['epoch']}/{self.checkpoint.epochs}  train_loss {row['train_loss']:.4f}  valid_loss "
            f"{row['valid_loss']:.4f}  accuracy {row['accuracy']:.4f}  lr {row['lr']:.1e}  {row['seconds']:.1f} s",
            flush=True,
        )


class Checkpoint(Callback):
    """Writes a run's files after each epoch, and takes up where last.pt left off.

    last.pt is the truth: it holds the history too, so that a kill between two files loses and doubles nothing.
    Weights are the best by validation accuracy; of equals the earliest.
    """

    order = 70  # after the Recorder and the schedule

    def __init__(self, run: Run, epochs: int):
        self.target, self.epochs, self.state = run, epochs, _read_state(run.path("last.pt"))
        self.finished = self.state["epoch"] if self.state else 0
        self.rows = self.state["history"] if self.state else []
        self.best = self.state["best"] if self.state else {"epoch": 0, "accuracy": -1.0}

    def before_fit(self) -> None:
        if self.state:
            self._restore(self.state)

    def before_train(self) -> None:
        self.dl.draws.next_epoch = self.finished  # finished epochs, over all fits: what the random draws go by
        self.rate, self.start = self.opt.hypers[-1]["lr"], time.perf_counter()
        self.total, self.seen = 0.0, 0

    def after_batch(self) -> None:
        if self.training:
            count = find_bs(self.yb)
            self.total, self.seen = self.total + self.loss.detach() * count, self.seen + count

    def after_epoch(self) -> None:
        self.finished += 1
        accuracy = float(self.recorder.metrics[0].value)
        figures = float(self.total) / self.seen, float(self.recorder.loss.value), accuracy, self.rate
        self.rows.append([self.finished, *figures, time.perf_counter() - self.start])
        if accuracy > self.best["accuracy"]:
            self.best = {"epoch": self.finished, "accuracy": accuracy}
            with replacing(self.target.path("best.safetensors")) as beside:
                save_file({name: tensor.contiguous() for name, tensor in self.model.state_dict().items()}, beside)
        with replacing(self.target.path("last.pt")) as beside:
            torch.save(self._snapshot(), beside)
        write_atomic(self.target.path("history.csv"), _csv_text(HISTORY, self.rows))

    def _snapshot(self) -> dict[str, Any]:
        "Everything a resume needs, of types that torch.load(weights_only=True) takes."
        return {
            "epoch": self.finished,
            "history": self.rows,
            "best": self.best,
            "model": self.model.state_dict(),
            "opt": self.opt.state_dict(),
            "callbacks": {name: part.state_dict() for name, part in self._parts().items()},
            "random": _random_state(),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.opt.load_state_dict(state["opt"])
        for name, part in self._parts().items():
            part.load_state_dict(state["callbacks"][name])
        _set_random_state(state["random"])

    def _parts(self) -> dict[str, Any]:
        "What else keeps state from step to step: the schedule and the loss scale."
        kept = {cb.name: getattr(cb, "scheduler", getattr(cb, "scaler", None)) for cb in self.learn.cbs}
        return {name: part for name, part in kept.items() if part is not None}


def _read_state(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes torch.load raise anything
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{path} can't be read ({reason}): restore it, or begin a new run") from error


def _random_state() -> dict[str, Any]:
    kind, keys, *rest = np.random.get_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {
        "torch": torch.get_rng_state(),
        "cuda": cuda,
        "numpy": [kind, keys.tolist(), *rest],
        "python": random.getstate(),
    }


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    random.setstate(state["python"])


def evaluate(learn: Learner, run: Run) -> dict[str, Any]:
    "metrics.json, returned too, and valid_predictions.csv of `learn` as it is: the best weights, after `fit`."
    data, classes = learn.dls.data, learn.dls.vocab
    with learn.no_bar():
        probabilities, labels = (part.numpy() for part in learn.get_preds())
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    rows = [
        [data.relative(photo), label, classes[index], f"{sure:.6f}"]
        for (photo, label), index, sure in zip(data.valid.items(), predicted, confidence, strict=True)
    ]
    write_atomic(run.path("valid_predictions.csv"), _csv_text("file label prediction confidence".split(), rows))
    state = _read_state(run.path("last.pt"))
    seconds = [row[-1] for row in state["history"]]
    found = {
        "best_epoch": state["best"]["epoch"],
        "epochs": state["epoch"],
        **metrics.summary(probabilities, labels),
        "seconds": sum(seconds),
        "images_per_second": len(data.train) * len(seconds) / sum(seconds),
        "peak_memory_bytes": _peak_memory(learn.dls.device),
    }
    write_json(run.path("metrics.json"), found)
    return found


def tell_results(run: Run) -> None:
    "The accuracy, and where the run's results lie."
    found = run.read_json("metrics.json")
    interval = "95 % interval {:.2%} to {:.2%}".format(*found["accuracy_interval"])
    print(
        f"validation accuracy {found['accuracy']:.2%} ({interval}, {found['images']} photos), "
        f"epoch {found['best_epoch']} of {found['epochs']}"
    )
    for name in ("report.html", "curves.png", "model.onnx", "predictions.csv"):
        if run.path(name).is_file():
            print(f"{name.partition('.')[0]:<12} {run.path(name)}")


def _peak_memory(device: torch.device) -> int:
    "Bytes at most held so far: on the GPU where that is the device, else by this process (workers not counted)."
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _csv_text(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()

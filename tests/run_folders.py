"""Run folders written by hand, with the files that a recipe writes."""

import csv
import re
from pathlib import Path

import numpy as np
from PIL import Image

from toolkit.data.preprocess import for_size
from toolkit.evaluation.metrics import softmax
from toolkit.evaluation.summary import summary
from toolkit.files import write_json
from toolkit.run import Run, load

NASTY = ['<script>alert("1")</script>', "$\\frac{$", "a \"b\" & 'c'", "日本語", "_hidden", "x" * 200]
"Class names that break HTML, mathematics, fonts or layouts."


def make_run(folder: Path, classes: list[str], each: int = 6, photos: Path | None = None, seed: int = 0) -> Path:
    """Write a finished run: `each` validation images per class, most of them right.

    photos: where to write photos of noise; None writes none, so that the run's photos are missing.
    """
    random, n = np.random.default_rng(seed), len(classes)
    labels = np.repeat(np.arange(n), each)
    logits = random.normal(size=(len(labels), n))
    logits[np.arange(len(labels)), labels] += 3.5
    logits[np.arange(len(labels)), labels ^ 1 if n % 2 == 0 else labels] += 1.5  # class 2k is like class 2k + 1
    probabilities = softmax(logits)
    files = [f"valid/{label}/{i}.png" for i, label in enumerate(labels)]
    for file in files if photos else []:
        (photos / file).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (64, 80, 3), np.uint8)).save(photos / file)
    write_json(folder / "recipe.json", recipe(classes, photos or folder / "gone", each))
    predictions = probabilities.argmax(1)
    write_predictions(
        folder,
        [
            (f, classes[a], classes[b], p)
            for f, a, b, p in zip(files, labels, predictions, probabilities.max(1), strict=True)
        ],
    )
    write_history(folder, 12)
    write_json(folder / "metrics.json", {"best_epoch": 9, "peak_memory_bytes": 2**31, **summary(probabilities, labels)})
    return folder


def recipe(classes: list[str], photos: Path, each: int) -> dict:
    return {
        "recipe": "hw1",
        "created": "2026-11-24T12:00:00+00:00",
        "options": {
            "data": "my data",
            "loss": "focal",
            "arch": "resnet18",
            "epochs": 30,
            "lr": 1e-3,
            "bs": 128,
            "accum": 2,
            "seed": 0,
            "out": "runs/x",
            "resume": False,
        },
        "classes": classes,
        "preprocess": for_size(224),
        "augment": {"scale": [0.08, 1.0], "flip": 0.5, "degrees": 15},
        "model": {"arch": "resnet18", "parameters": 11_176_512},
        "data": {
            "path": str(photos),
            "fingerprint": "0" * 64,
            "train": 900,
            "valid": each * len(classes),
            "test": 0,
            "counts": {c: 9 + i for i, c in enumerate(classes)},
        },
    }


def write_predictions(folder: Path, rows: list[tuple]) -> None:
    with (folder / "valid_predictions.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file", "label", "prediction", "confidence"), *rows])


def write_history(folder: Path, epochs: int) -> None:
    lines = [f"{e},{3 / e},{3 / e + 0.1},{1 - 0.9 / e},{1e-3 * 0.2 ** (e // 5)},7.5" for e in range(1, epochs + 1)]
    (folder / "history.csv").write_text("\n".join(["epoch,train_loss,valid_loss,accuracy,lr,seconds", *lines]) + "\n")


# Studies


def make_study_runs(
    folder: Path, correct: dict, counts: dict | None = None, fingerprint: str = "0" * 64, shift: int = 0
) -> dict[str, list[Run]]:
    """Write a finished run for each variant and seed. correct: {variant: bool [seeds, images]}.

    The labels are a, b, c, a, b, ... shift: the number of images by which the next seed's images differ.
    """
    runs = {}
    for name, seeds in correct.items():
        for seed, right in enumerate(np.atleast_2d(seeds)):
            run = folder / f"{re.sub(r'[^a-z]', '-', name)}-{seed}"
            content = recipe(list("abc"), folder, 5)
            content["options"] |= {"seed": seed, "loss": "ce"}
            content["data"] |= {"counts": counts or dict.fromkeys("abc", 9), "fingerprint": fingerprint}
            content["data"]["valid"] = len(right)
            write_json(run / "recipe.json", content)
            labels = np.arange(len(right)) % 3
            predictions = np.where(right, labels, (labels + 1) % 3)
            files = [f"{i + shift * seed}.png" for i in range(len(right))]
            rows = [(f, "abc"[y], "abc"[p], 0.9) for f, y, p in zip(files, labels, predictions, strict=True)]
            write_predictions(run, rows)
            write_history(run, 5 + seed)
            runs.setdefault(name, []).append(load(run))
    return runs


def first_right(right: int, images: int) -> np.ndarray:
    "bool [images]: the first `right` images are right."
    return np.arange(images) < right

"""Does this model.onnx do what its run's weights do? Real photos through both, and a certificate or a refusal."""

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from export.session import Classifier
from toolkit.metrics import softmax
from toolkit.photo import read_photo
from toolkit.preprocess import prepare
from toolkit.run import Run

if TYPE_CHECKING:
    from fastai.learner import Learner

BUDGETS = {  # how far from torch in float32 a file may be, by the device it is verified on; CUDA multiplies in TF32
    "cpu": {"agreement": 0.999, "probability": 1e-3, "accuracy_loss": 0.001},
    "cuda": {"agreement": 0.99, "probability": 2e-2, "accuracy_loss": 0.005},
    "tensorrt": {"agreement": 0.99, "probability": 2e-2, "accuracy_loss": 0.005},
}
RECORDED = 0.9  # of torch's labels must be those that training wrote down, in another precision perhaps


def verify(run: Run, model: Path, device: str = "auto", images: int = 256) -> dict[str, Any]:
    """The certificate of the file `model`: validation photos of `run`, up to `images` of them, through the shipped
    preprocessing and the file, and through the run's fastai loaders and its weights in torch float32.

    Keys: device, images, agreement (share of equal class names), logit_difference and probability_difference (the
    largest), accuracy (of the file), torch_accuracy, recorded (share of torch's labels that valid_predictions.csv has
    too), worst (file and logit difference of those that differ most), budget.
    Raises ValueError, saying by how much, where that is over BUDGETS; FileNotFoundError where the photos are gone.
    """
    classifier, learn = Classifier(model, device), run.learner("cpu")
    photos = _evenly(list(learn.dls.data.valid), images)
    if not photos:
        raise FileNotFoundError(
            f"the validation photos of {run.folder} are not at {run.recipe['data']['path']} as they were: "
            "a model is verified on real photos, bring them back"
        )
    reference = _torch_logits(learn, photos)
    logits, probabilities = _file_scores(classifier, photos)
    torch_names = np.array(run.recipe["classes"])[reference.argmax(1)]
    file_names = np.array(classifier.card.classes)[logits.argmax(1)]
    labels = np.array([learn.dls.data.valid[photo] for photo in photos])
    recorded = _recorded(run)
    names = [learn.dls.data.relative(photo) for photo in photos]
    difference = np.abs(reference - logits).max(1)
    certificate = {
        "device": classifier.device,
        "images": len(photos),
        "agreement": float(np.mean(torch_names == file_names)),
        "logit_difference": float(difference.max()),
        "probability_difference": float(np.abs(softmax(reference) - probabilities).max()),
        "accuracy": float(np.mean(file_names == labels)),
        "torch_accuracy": float(np.mean(torch_names == labels)),
        "recorded": float(np.mean([recorded.get(name) == said for name, said in zip(names, torch_names, strict=True)])),
        "worst": [[names[index], float(difference[index])] for index in np.argsort(-difference, kind="stable")[:5]],
        "budget": BUDGETS[classifier.device],
    }
    if faults := _faults(certificate):
        raise ValueError(f"the exported model is not the trained one, no file is written: {'; '.join(faults)}")
    return certificate


def certificate_table(certificate: dict[str, Any]) -> str:
    "The certificate for a person to read, a line a figure."
    budget = certificate["budget"]
    return "\n".join(
        [
            f"verified on {certificate['images']} validation photos, on {certificate['device']} against torch",
            f"  same label          {certificate['agreement']:.2%} (at least {budget['agreement']:.1%})",
            f"  largest difference  {certificate['probability_difference']:.1e} in a probability "
            f"(at most {budget['probability']:.0e}), {certificate['logit_difference']:.1e} in a logit",
            f"  accuracy            {certificate['accuracy']:.2%}, torch {certificate['torch_accuracy']:.2%}",
        ]
    )


def _faults(certificate: dict[str, Any]) -> list[str]:
    "Every figure of the certificate that is over its budget, in words."
    budget, worst = certificate["budget"], certificate["worst"][0][0]
    loss = certificate["torch_accuracy"] - certificate["accuracy"]
    said = [
        (
            certificate["agreement"] < budget["agreement"],
            f"same label on {certificate['agreement']:.2%} of {certificate['images']} photos, "
            f"at least {budget['agreement']:.1%} wanted",
        ),
        (
            not certificate["probability_difference"] <= budget["probability"],
            f"a probability differs by {certificate['probability_difference']:.1e}, "
            f"at most {budget['probability']:.0e} allowed (worst: {worst})",
        ),
        (
            loss > budget["accuracy_loss"],
            f"accuracy {certificate['accuracy']:.2%}, torch {certificate['torch_accuracy']:.2%}",
        ),
        (
            certificate["recorded"] < RECORDED,
            f"torch gives the label that training recorded on {certificate['recorded']:.2%} of the photos, "
            f"at least {RECORDED:.0%} wanted: best.safetensors or recipe.json is not this run's",
        ),
    ]
    return [text for wrong, text in said if wrong]


def _evenly(photos: list[Path], count: int) -> list[Path]:
    "At most `count` of the photos, spread evenly over the list and so over the classes."
    picked = np.linspace(0, len(photos) - 1, min(count, len(photos))).round().astype(int)
    return [photos[index] for index in picked]


def _torch_logits(learn: "Learner", photos: list[Path]) -> np.ndarray:
    "float32 [n, classes], by fastai's loader: its reading, its preparing, its normalisation."
    import torch

    learn.model.eval()
    with torch.inference_mode():
        return np.concatenate([learn.model(batch[0]).numpy() for batch in learn.dls.test_dl(photos, bs=16)])


def _file_scores(classifier: Classifier, photos: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    "Logits and probabilities, float32 [n, classes], by the file and the preprocessing it names."
    parts = []
    for start in range(0, len(photos), 16):
        batch = [prepare(read_photo(photo), classifier.card.preprocess) for photo in photos[start : start + 16]]
        parts.append(classifier.session.run(["logits", "probabilities"], {"image": np.stack(batch)}))
    logits, probabilities = (np.concatenate(part) for part in zip(*parts, strict=True))
    return logits, probabilities


def _recorded(run: Run) -> dict[str, str]:
    "The label that valid_predictions.csv holds for each file. Raises FileNotFoundError where training wrote none yet."
    with run.path("valid_predictions.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return {row["file"]: row["prediction"] for row in csv.DictReader(file)}

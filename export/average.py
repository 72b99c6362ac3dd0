"""Average model files in one model.onnx with the same input and outputs, which is verified before it gets its name.

    python -m export.average a.onnx b.onnx c.onnx --out model.onnx

The files must have the same classes, take photos prepared alike, and be of one precision. The probabilities are the
mean of the files' calibrated probabilities, the logits the logarithm of that mean. It takes the time of all the files.
`export.predict a.onnx b.onnx` gives the same without a new file, and also for photos prepared in different ways.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import onnx

from export.convert.average import averaged
from export.convert.graph import write_metadata
from export.convert.layers import precision_of
from export.convert.model_file import checked_out, writing
from export.parity.certificate import faults, table
from export.parity.files import files_reference, runs_of, trained_on, validation_labels
from export.parity.measure import measured
from export.parity.reference import evenly
from export.predictions.output_files import check_not_read
from export.runtime.class_order import class_order
from export.runtime.metadata import Card
from export.runtime.providers import DEVICES, choose_device
from export.session import Classifier
from toolkit.command import run_script

LARGEST = 2**31 - 2**20
"Bytes of the files together: protobuf holds 2 GiB, and an ONNX file is one message of it."


def average_models(
    models: list[Path],  # two model.onnx or more
    out: Path = Path("average.onnx"),  # file to write
    data: Path | None = None,  # labelled photos, as of --data (default: the validation photos of the files' runs)
    device: Annotated[str, {"choices": DEVICES}] = "auto",  # device that the file is verified on
    images: int = 256,  # photos at most, to verify on
) -> Path:
    """Average model files in one.

    Returns the path of the new file. Its certificate compares it with the mean of the files. Raises ValueError if the
    files can't be averaged, saying what differs, or if the new file is not their mean, and then no file is written;
    FileNotFoundError if there are no photos to verify on.
    """
    models, out = [Path(model) for model in models], checked_out(Path(out))
    check_not_read([out], models)
    cards, device = _cards(models), choose_device(device)
    precision = _precision(models)
    orders = [
        class_order(model, card.classes, models[0], cards[0].classes) for model, card in zip(models, cards, strict=True)
    ]
    labels = evenly(_labels(models, data, cards[0].classes), images)
    reference = files_reference(models, orders, labels, device, precision)
    with writing(out) as beside:
        onnx.save(averaged([onnx.load(model) for model in models], orders), beside)
        write_metadata(beside, _metadata(models, cards, precision))
        certificate = measured(reference, beside, device, precision, [])
        certificate["trained_on"] = trained_on(labels, runs_of(models))
        if wrong := faults(certificate):
            raise ValueError(f"the average is not the mean of the files, no file is written: {'; '.join(wrong)}")
        write_metadata(beside, {"verification": certificate})
    print(f"{table(certificate)}\nmodel {out}", flush=True)
    return out


def _cards(models: list[Path]) -> list[Card]:
    "The metadata of the files. Raises ValueError for a single file, and if they can't be in one file."
    if len(models) < 2:
        raise ValueError(f"{', '.join(map(str, models)) or 'no file'}: give two model files or more to average")
    cards = [Classifier(model, "cpu").card for model in models]
    if (size := sum(model.stat().st_size for model in models)) > LARGEST:
        raise ValueError(
            f"the files have {size / 1e9:.1f} GB together, and an ONNX file holds 2.1: average fewer of them, in fp16 "
            "or int8, or give all of them to export.predict"
        )
    for model, card in zip(models, cards, strict=True):
        for name in sorted(cards[0].preprocess.keys() | card.preprocess.keys()):
            value, first = (each.preprocess.get(name) for each in (card, cards[0]))
            if value != first:
                raise ValueError(
                    f"{model} takes photos with {name} {value}, {models[0]} with {first}: one file can't do both, but "
                    "export.predict averages such files"
                )
    return cards


def _precision(models: list[Path]) -> str:
    "The precision of the files. Raises ValueError if they have several."
    first, *others = map(precision_of, models)
    for model, other in zip(models[1:], others, strict=True):
        if other != first:
            raise ValueError(f"{models[0]} is {first}, {model} is {other}: export all of them in one --precision")
    return first


def _labels(models: list[Path], data: Path | None, classes: Sequence[str]) -> dict[Path, str]:
    "The label of each photo to verify on. Raises FileNotFoundError if there are none, ValueError for another class."
    from toolkit.data.on_disk.layouts import labelled_photos
    from toolkit.data.sources.source import open_source

    labels = labelled_photos(open_source(data).path) if data else validation_labels(runs_of(models))
    if not labels:
        raise FileNotFoundError(
            "no photos to verify on: no file lies in its run folder, with validation photos that are as they were; "
            "give --data, labelled photos of the same classes"
        )
    if unknown := sorted(set(labels.values()) - set(classes)):
        raise ValueError(f"--data {data} has photos of {unknown[0]!r}, a class that {models[0]} doesn't know")
    return labels


def _metadata(models: list[Path], cards: list[Card], precision: str) -> dict[str, Any]:
    "All metadata of the average but its certificate."
    first, licences = cards[0], dict.fromkeys(str(card.weights_license) for card in cards if card.weights_license)
    return {
        "classes": first.classes,
        "preprocess": first.preprocess,
        "recipe": {"recipe": "average", "options": {}, "models": _origins(models, cards)},
        "weights_license": "; ".join(licences) or None,
        "calibration": {"temperature": 1.0, "fitted": "none to the mean; each file keeps its own temperature"},
        "precision": precision,
    }


def _origins(models: list[Path], cards: list[Card]) -> list[dict[str, Any]]:
    "The checksum of each file, its recipe, and its validation accuracy and temperature if they are known."
    return [
        {
            "sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
            "recipe": card.recipe,
            "accuracy": card.metrics.get("accuracy") if isinstance(card.metrics, dict) else None,
            "temperature": card.calibration.get("temperature") if isinstance(card.calibration, dict) else None,
        }
        for model, card in zip(models, cards, strict=True)
    ]


if __name__ == "__main__":
    run_script(average_models)

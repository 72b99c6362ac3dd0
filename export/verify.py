"""Verify a model.onnx against its run's weights on real photos: a certificate, or a refusal with the differences.

    python -m export.verify model.onnx data --device cuda

DATA is any labelled photos, as a recipe's --data, or the test_labels.csv beside a test/: columns image_name,label. If
it has a validation part, or if the run was trained on it, only the validation photos are used.
"""

from pathlib import Path
from typing import Annotated, Any

from export.convert.layers import precision_of
from export.parity.certificate import faults, table
from export.parity.files import trained_on, validated_on
from export.parity.measure import measured
from export.parity.reference import Reference, evenly, prepared_all, torch_outputs
from export.runtime.providers import DEVICES
from export.session import Classifier
from toolkit.command import run_script
from toolkit.data.dataset import find_data, recorded_dataset
from toolkit.data.on_disk.layouts import labelled_photos
from toolkit.data.sources.source import Columns, Source, open_source, same_source
from toolkit.options import data_text
from toolkit.run import Run, load


def verify(
    model: Path,  # model.onnx
    data: Path,  # labelled photos: a folder, a CSV (path,label or image_name,label), zip, Parquet, or hf://USER/NAME
    run: Path | None = None,  # run folder to compare with (default: the folder of the model, if that is a run)
    device: Annotated[str, {"choices": DEVICES}] = "auto",  # where the model runs; auto prints its choice
    images: int = 1000,  # photos at most, spread evenly over the classes
    image_column: str | None = None,  # column of the photos in Parquet files (default: found by its type)
    label_column: str | None = None,  # column of the labels in Parquet files (default: found by its type)
) -> dict[str, Any]:
    """Issue a model's certificate again: on any labelled photos, on any device.

    Without a run the certificate has accuracy and calibration alone. Raises ValueError, with the differences, if the
    file is over its budget.
    """
    model = Path(model)
    classifier = Classifier(model, device)
    trained = _run_of(classifier, run)
    precision, kept = _claims(classifier)
    source = open_source(data, Columns(image_column, label_column))
    own = _own_photos(trained, source) if trained else None
    labels = evenly(labelled_photos(source.path) if own is None else own, images)
    _check_labels(data, labels, classifier)
    reference = _reference(labels, trained, classifier, own is not None)
    certificate = measured(reference, model, classifier.device, precision, kept)
    if trained:
        certificate |= {"trained_on": trained_on(labels, [trained]), "chosen_by": validated_on(labels, [trained])}
    print(table(certificate))
    if wrong := faults(certificate):
        raise ValueError(f"{model} is over its budget: {'; '.join(wrong)}")
    return certificate


def _claims(classifier: Classifier) -> tuple[str, list[str]]:
    "The file's precision, and the layers that its metadata list as float32. Raises ValueError if these are wrong."
    recorded = classifier.card.verification if isinstance(classifier.card.verification, dict) else {}
    precision, kept = precision_of(classifier.model), recorded.get("kept", [])
    if classifier.card.precision != precision:
        raise ValueError(f"{classifier.model} says it is {classifier.card.precision!r:.60}, and is {precision}")
    if not isinstance(kept, list) or not all(isinstance(name, str) for name in kept):
        raise ValueError(f"{classifier.model}: its verification is no certificate; export it again")
    return precision, kept


def _run_of(classifier: Classifier, run: Path | None) -> Run | None:
    "The run to compare with: the one given, else the one in the model's folder. An average of files has none."
    model, recipe = classifier.model, classifier.card.recipe
    if isinstance(recipe, dict) and recipe.get("recipe") == "average":
        if run is not None:
            raise ValueError(f"{model} is an average of several files, no run is its own: leave out --run {run}")
        return None
    if run is None and all((model.parent / name).is_file() for name in ("recipe.json", "best.safetensors")):
        run = model.parent
    return load(run) if run else None


def _check_labels(data: Path, labels: dict[Path, str], classifier: Classifier) -> None:
    "Raises ValueError if a photo has a label that is no class of the model."
    unknown = sorted(set(labels.values()) - set(classifier.card.classes))
    if unknown:
        raise ValueError(
            f"{data_text(data)} has photos of {unknown[0]!r}, a class that {classifier.model} doesn't know "
            f"({len(unknown)} such)"
        )


def _own_photos(run: Run, source: Source) -> dict[Path, str] | None:
    """The run's validation photos, if `source` holds the photos of the run, perhaps as a copy or in a zip; else None.

    Raises ValueError if it is where they were, and they are gone or have changed.
    """
    if same_source(source, run.recipe["data"]):
        recorded, fault = recorded_dataset(run.recipe)
        if fault:
            raise ValueError(f"the photos of {run.folder} {fault}: bring them back, or give other labelled photos")
        return recorded.valid
    try:
        found = find_data(source.path, run.recipe["options"].get("seed", 0))
    except (OSError, ValueError):  # nothing to train on, which labelled photos need not be
        return None
    return found.valid if found.is_recorded(run.recipe["data"]["fingerprint"]) else None


def _reference(labels: dict[Path, str], run: Run | None, classifier: Classifier, own: bool) -> Reference:
    "The photos prepared for the model file; with a run also its logits."
    names, images = [str(photo) for photo in labels], prepared_all(labels, classifier.card.preprocess)
    if run is None:
        return Reference(names, images, list(labels.values()), classifier.card.classes)
    classes, preprocess = run.recipe["classes"], run.recipe["preprocess"]
    if sorted(classes) != sorted(classifier.card.classes):
        raise ValueError(f"{classifier.model} has other classes than {run.folder}: give the run it was exported from")
    as_trained = images if preprocess == classifier.card.preprocess else prepared_all(labels, preprocess)
    logits, features = torch_outputs(run.model(), as_trained, preprocess, classifier.feature_size is not None)
    return Reference(names, images, list(labels.values()), classes, logits, own, features)


if __name__ == "__main__":
    run_script(verify)

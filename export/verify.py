"""Does this model.onnx do what its run's weights do? Real photos through both, and a certificate or a refusal.

    python -m export.verify model.onnx data --device cuda

DATA is any labelled folder or CSV. Of what comes split, and of what the run was trained on, it is the validation part.
"""

from pathlib import Path
from typing import Annotated, Any

from export.convert.layers import precision_of
from export.parity.certificate import faults, table
from export.parity.measure import measured
from export.parity.reference import Reference, evenly, prepared_all, torch_logits
from export.runtime.providers import DEVICES
from export.session import Classifier
from toolkit.command import run_script
from toolkit.run import Run, load

# The certificate again


def _claims(classifier: Classifier) -> tuple[str, list[str]]:
    "The file's precision, and the layers that it says are in float32. Raises ValueError where it says other things."
    said = classifier.card.verification if isinstance(classifier.card.verification, dict) else {}
    precision, kept = precision_of(classifier.model), said.get("kept", [])
    if classifier.card.precision != precision:
        raise ValueError(f"{classifier.model} says it is {classifier.card.precision!r:.60}, and is {precision}")
    if not isinstance(kept, list) or not all(isinstance(name, str) for name in kept):
        raise ValueError(f"{classifier.model}: its verification is no certificate; export it again")
    return precision, kept


def _run_of(model: Path, run: Path | None) -> Run | None:
    "The run to compare with: the one given, else the one whose folder the model lies in."
    if run is None and all((model.parent / name).is_file() for name in ("recipe.json", "best.safetensors")):
        run = model.parent
    return load(run) if run else None


def _is_own(data: Path, run: Run | None) -> bool:
    "Whether the run was trained on a part of `data`, and validated on another."
    return run is not None and Path(data).resolve() == Path(run.recipe["data"]["path"]).resolve()


def _labels(data: Path, run: Run | None, classifier: Classifier) -> dict[Path, str]:
    "The photos to judge by; of what the run was trained on, those it was validated on."
    from toolkit.data.on_disk.layouts import labelled_photos

    own = _is_own(data, run)
    labels = run.learner("cpu").dls.data.valid if own else labelled_photos(data)
    unknown = sorted(set(labels.values()) - set(classifier.card.classes))
    if unknown:
        raise ValueError(
            f"{data} has photos of {unknown[0]!r}, a class that {classifier.model} doesn't know ({len(unknown)} such)"
        )
    return labels


def _reference(labels: dict[Path, str], run: Run | None, classifier: Classifier, own: bool) -> Reference:
    names, images = [str(photo) for photo in labels], prepared_all(labels, classifier.card.preprocess)
    if run is None:
        return Reference(names, images, list(labels.values()), classifier.card.classes)
    classes = run.recipe["classes"]
    if sorted(classes) != sorted(classifier.card.classes):
        raise ValueError(f"{classifier.model} has other classes than {run.folder}: give the run it was exported from")
    logits = torch_logits(run.learner("cpu"), list(labels))
    return Reference(names, images, list(labels.values()), classes, logits, validation=own)


def verify(
    model: Path,  # model.onnx
    data: Path,  # labelled photos: a folder of class folders, a folder with val/, or a CSV with columns path,label
    run: Path | None = None,  # run folder to compare with (default: the one that the model lies in, if it does)
    device: Annotated[str, {"choices": DEVICES}] = "auto",  # where the model runs; auto says what it chose
    images: int = 1000,  # photos, at most, spread evenly over the classes
) -> dict[str, Any]:
    """Issue a model's certificate again: on any labelled photos, on any device.

    Without a run it is accuracy and calibration alone. Raises ValueError, by how much, for a file over its budget.
    """
    model = Path(model)
    classifier, trained = Classifier(model, device), _run_of(model, run)
    precision, kept = _claims(classifier)
    labels = evenly(_labels(data, trained, classifier), images)
    reference = _reference(labels, trained, classifier, _is_own(data, trained))
    certificate = measured(reference, model, classifier.device, precision, kept)
    print(table(certificate))
    if wrong := faults(certificate):
        raise ValueError(f"{model} is not what it is to be: {'; '.join(wrong)}")
    return certificate


if __name__ == "__main__":
    run_script(verify)

"""Read and check the metadata and the interface of a model.onnx. The file is not trusted.

It is refused, with the reason, if it is no ONNX file, keeps weights in other files, has other inputs and outputs than
ours, or if its metadata are missing, are no JSON or do not fit its graph.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from toolkit.data.on_disk.class_names import classes_fault
from toolkit.data.preprocess import check, upgraded
from toolkit.errors import first_line
from toolkit.files import parse_json

if TYPE_CHECKING:
    import onnxruntime


def check_exists(model: Path) -> None:
    "Raises OSError, with what to give instead, if there is no such file."
    if model.is_dir():
        raise IsADirectoryError(f"{model} is a folder: give the model file, as in {model / 'model.onnx'}")
    if not model.exists():
        raise FileNotFoundError(f"{model}: no such file; give a model.onnx that `python -m export.to_onnx` wrote")


def content(model: Path) -> bytes:
    "The file's bytes. Raises OSError if there is no file, ValueError if its weights are in other files."
    check_exists(model)
    data = model.read_bytes()
    # An external tensor names its file under the key "location": most files need not be parsed.
    if b"location" in data and _has_external_data(model, data):
        raise ValueError(f"{model} keeps weights in other files: export it as one file, `python -m export.to_onnx RUN`")
    return data


def _has_external_data(model: Path, data: bytes) -> bool:
    import onnx

    def outside(message) -> bool:
        if isinstance(message, onnx.TensorProto):
            return message.data_location == onnx.TensorProto.EXTERNAL or len(message.external_data) > 0
        values = (value for field, value in message.ListFields() if field.message_type)
        return any(outside(part) for value in values for part in ([value] if hasattr(value, "ListFields") else value))

    try:
        return outside(onnx.load_model_from_string(data))
    except Exception as error:  # protobuf's DecodeError derives from Exception alone
        raise ValueError(f"{model} is not an ONNX file: {first_line(error)}") from error


EXPECTED = {"image": "uint8 [batch, height, width, 3]", "features": "float32 [batch, n]"}


def check_interface(session, model) -> None:
    """Raises ValueError unless the input is `image`, uint8 [batch, height, width, 3], and the outputs are `logits` and
    `probabilities`, float32 [batch, classes]; an output `features`, if there is one, is float32 [batch, n].
    """
    inputs = {value.name: value for value in session.get_inputs()}
    outputs = {value.name: value for value in session.get_outputs()}
    if set(inputs) != {"image"} or not {"logits", "probabilities"} <= set(outputs):
        raise ValueError(
            f"{model} takes {', '.join(inputs)} and gives {', '.join(outputs)}: "
            "expected image -> logits, probabilities; export it with `python -m export.to_onnx RUN`"
        )
    wanted = [("image", inputs["image"], "tensor(uint8)", 4)]
    wanted += [(name, outputs[name], "tensor(float)", 2) for name in ("logits", "probabilities")]
    wanted += [(name, outputs[name], "tensor(float)", 2) for name in ("features",) if name in outputs]
    for name, value, kind, rank in wanted:
        shape = list(value.shape)
        fits = value.type == kind and len(shape) == rank and not isinstance(shape[0], int)
        fits = fits and (name != "image" or shape[3] == 3) and (name != "features" or isinstance(shape[1], int))
        if not fits:
            expected = EXPECTED.get(name, "float32 [batch, classes]")
            raise ValueError(f"{model}: {name} is {value.type} {shape}, expected {expected} with a free batch")


def check_outputs(model, outputs: Sequence[np.ndarray], expected: tuple[int, int], size: int | None = None) -> None:
    """Check logits, probabilities and perhaps features of a batch, the latter of `size` columns.

    Raises ValueError if they have other shapes, or if probabilities or features are not numbers.
    """
    logits, probabilities, *features = outputs
    if logits.shape != expected or probabilities.shape != expected:
        raise ValueError(f"{model}: probabilities of shape {probabilities.shape}, expected {expected}")
    for name, values in zip(("probabilities", "features"), (probabilities, *features), strict=False):
        if name == "features" and values.shape != (len(logits), size):
            raise ValueError(f"{model}: features of shape {values.shape}, expected {(len(logits), size)}")
        if not np.isfinite(values).all():
            raise ValueError(f"{model} gives {name} that are no numbers: export it again in fp32")


@dataclass(frozen=True)
class Card:
    "The metadata_props of a model.onnx, parsed from JSON."

    classes: list[str]
    "Class names in index order."
    preprocess: dict
    "The dict that `toolkit.data.preprocess.prepare` takes, as this version writes it."
    recipe: object = None
    metrics: object = None
    calibration: object = None
    precision: object = "fp32"
    verification: object = None
    weights_license: object = None
    features: object = None
    promise: dict | None = None
    "What `toolkit.evaluation.selective.promised` returns; None if every photo gets an answer."

    @property
    def threshold(self) -> float | None:
        "The calibrated confidence below which an answer is unsure; None if every photo gets an answer."
        return self.promise["threshold"] if self.promise else None


def feature_size(session: "onnxruntime.InferenceSession") -> int | None:
    "The number of features of an image; None if the file has no such output."
    return next((output.shape[1] for output in session.get_outputs() if output.name == "features"), None)


def read_card(session: "onnxruntime.InferenceSession", model: str | Path) -> Card:
    "The metadata of an open session's file. Raises ValueError if some are missing or do not fit the graph."
    try:
        found = session.get_modelmeta().custom_metadata_map
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{model}: its metadata are no text ({error.reason} at {error.start}), the file is damaged"
        ) from error
    names = [field.name for field in fields(Card)]
    card = Card(**{name: _json(found, name, model) for name in names if name in found or name in names[:2]})
    fault = _classes_fault(card.classes, session) or _preprocess_fault(card.preprocess, session)
    fault = fault or _promise_fault(card.promise)
    if fault:
        raise ValueError(f"{model}: {fault}; export it again with `python -m export.to_onnx RUN`")
    return replace(card, preprocess=upgraded(card.preprocess))


def _json(found: dict, name: str, model):
    "The parsed value of one entry. Raises ValueError if it is missing or no JSON."
    if name not in found:
        raise ValueError(f"{model} carries no {name!r}: export it with `python -m export.to_onnx RUN`")
    try:
        return parse_json(found[name])
    except ValueError as error:
        raise ValueError(f"{model}: its {name!r} is not JSON ({first_line(error)})") from error


def _classes_fault(classes, session) -> str | None:
    counts = {output.name: output.shape[1] for output in session.get_outputs()}
    for name in ("logits", "probabilities"):
        if isinstance(classes, list) and isinstance(counts[name], int) and counts[name] != len(classes):
            return f"it names {len(classes)} classes, its {name} have {counts[name]}"
    return classes_fault(classes)


def _preprocess_fault(preprocess, session) -> str | None:
    try:
        check(preprocess)
    except ValueError as error:
        return f"its {textwrap.shorten(str(error), 150)}"  # an interpolation is a paragraph
    for size in session.get_inputs()[0].shape[1:3]:
        if isinstance(size, int) and size != preprocess["crop"]:
            return f"its preprocess crops to {preprocess['crop']} pixels, its input takes {size}"
    return None


def _promise_fault(promise: object) -> str | None:
    if promise is None:
        return None
    for name in ("threshold", "promise"):
        value = promise.get(name) if isinstance(promise, dict) else promise
        if type(value) not in (int, float) or not 0 <= value <= 1:
            return f"its promise has {name}={value!r:.60}, expected a number from 0 to 1"
    return None

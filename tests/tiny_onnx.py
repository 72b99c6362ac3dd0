"""A model.onnx of a few nodes, made without the toolkit: logits = mean colour x weight + bias."""

import json
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save

from toolkit.data.preprocess import INTERPOLATION, VERSION

CROP = 28
PREPROCESS = {
    "resize": 32,
    "crop": CROP,
    "interpolation": INTERPOLATION,
    "version": VERSION,
    "exif": "transpose",
    "alpha": "white",
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
}
NUMERIC = sorted(str(number) for number in range(12))  # 0, 1, 10, 11, 2, ...: text order, as class folders are sorted


def weights(classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng([classes, seed] if seed else classes)
    weight = random.normal(0, 0.1, (3, classes)).astype(np.float32)
    return weight, random.normal(0, 1, classes).astype(np.float32) - 127.5 * weight.sum(0)


def graph(
    classes: int,
    name: str = "image",
    kind: int = TensorProto.UINT8,
    shape: tuple = ("batch", CROP, CROP, 3),
    axes: tuple[int, int] = (1, 2),
    outputs: str = "logits probabilities",
    seed: int = 0,
):
    weight, bias = weights(classes, seed)
    logits, probabilities = outputs.split()
    nodes = [
        helper.make_node("Cast", [name], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["mean"], keepdims=0),
        helper.make_node("Gemm", ["mean", "weight", "bias"], [logits]),
        helper.make_node("Softmax", [logits], [probabilities], axis=1),
    ]
    constants = {"axes": np.array(axes), "weight": weight, "bias": bias}
    return helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, kind, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", classes]) for output in outputs.split()],
        [numpy_helper.from_array(value, constant) for constant, value in constants.items()],
    )


def write(path: Path, classes: list[str] = NUMERIC, metadata: dict | None = None, **graph_options) -> Path:
    "Write the model file. metadata: raw strings that replace entries of its metadata; None removes an entry."
    model = helper.make_model(
        graph(len(classes), **graph_options), opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    )
    entries = {
        "classes": json.dumps(classes),
        "preprocess": json.dumps(PREPROCESS),
        "recipe": json.dumps("tiny"),
        "verification": json.dumps({"agreement": 1.0}),
    } | (metadata or {})
    helper.set_model_props(model, {name: value for name, value in entries.items() if value is not None})
    save(model, path)
    return path


def expected(photo: np.ndarray, classes: list[str] = NUMERIC, seed: int = 0) -> tuple[str, np.ndarray]:
    "Label and probabilities of a 32 x 32 RGB photo, computed by numpy: no resize, 2 pixels cropped on each side."
    weight, bias = weights(len(classes), seed)
    logits = photo[2:30, 2:30].reshape(-1, 3).mean(0) @ weight + bias
    exponents = np.exp(logits - logits.max())
    return classes[int(logits.argmax())], exponents / exponents.sum()


def photo(seed: int) -> np.ndarray:
    "A noisy 32 x 32 RGB photo of one colour, with a frame of another colour that only a wrong crop would show."
    random = np.random.default_rng(seed)
    pixels = np.clip(random.integers(0, 256, 3) + random.integers(-20, 20, (32, 32, 3)), 0, 255).astype(np.uint8)
    pixels[:2] = pixels[-2:] = pixels[:, :2] = pixels[:, -2:] = 255 - pixels[16, 16]
    return pixels

"""The Open Inference Protocol: an inference request's JSON and binary tensors -> photos, and answers -> tensors.

Sources: https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md and, for
tensors in binary, https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol, "binary tensor
data extension".
"""

import itertools
import json
import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from starlette.responses import Response

from export.ensemble import Ensemble, of_one_size
from export.serving.job import Photo
from export.serving.service import is_unsure, json_answer
from export.serving.uploads import checked_json, from_base64
from export.session import Classifier

LENGTH = "Inference-Header-Content-Length"
"The header that gives the bytes of the JSON if binary tensors follow it."


@dataclass(frozen=True)
class Inference:
    "An inference request. outputs: the tensors asked for, and whether each is wanted in binary."

    id: str | None
    photos: list[Photo]
    outputs: dict[str, bool]


def model_metadata(model: Classifier | Ensemble, name: str) -> dict[str, Any]:
    "The model's tensors. A request gives one of the two inputs."
    crop, inputs = model.card.preprocess["crop"], [{"name": "photo", "datatype": "BYTES", "shape": [-1]}]
    if of_one_size(model):
        inputs = [{"name": "image", "datatype": "UINT8", "shape": [-1, crop, crop, 3]}, *inputs]
    outputs = [
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, len(model.card.classes)]},
        {"name": "label", "datatype": "BYTES", "shape": [-1]},
    ]
    if model.card.threshold is not None:
        outputs.append({"name": "unsure", "datatype": "BOOL", "shape": [-1]})
    return {"name": name, "platform": "onnxruntime_onnx", "inputs": inputs, "outputs": outputs}


def read_inference(body: bytes, json_bytes: str | None, metadata: dict[str, Any]) -> Inference:
    "Read a request's body. json_bytes: the header LENGTH. Raises ValueError, saying what is wrong."
    if json_bytes is not None and not (json_bytes.isdecimal() and int(json_bytes[:12]) <= len(body)):
        raise ValueError(f"{LENGTH} is {json_bytes:.20}, the body has {len(body)} bytes")
    size = len(body) if json_bytes is None else int(json_bytes[:12])
    request, binary = checked_json(body[:size]), body[size:]
    if not isinstance(request, dict) or not isinstance(request.get("id", ""), str):
        raise ValueError("an inference request is an object, its id a text")
    inputs = request.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise ValueError(f"`inputs` is a list of one tensor, {_names(metadata['inputs'])}")
    photos = _photos(inputs[0], binary, metadata)
    return Inference(request.get("id"), photos, _wanted(request, metadata))


def _photos(tensor: dict[str, Any], binary: bytes, metadata: dict[str, Any]) -> list[Photo]:
    known = {each["name"]: each for each in metadata["inputs"]}
    given = known.get(tensor.get("name")) if isinstance(tensor.get("name"), str) else None
    if given is None:
        raise ValueError(f"the input {tensor.get('name')!r:.40} is unknown: give {_names(metadata['inputs'])}")
    if tensor.get("datatype") != given["datatype"]:
        raise ValueError(f"the datatype of {given['name']} is {given['datatype']}, not {tensor.get('datatype')!r:.20}")
    shape = tensor.get("shape")
    if not isinstance(shape, list) or not all(type(each) is int and each > 0 for each in shape):
        raise ValueError(f"the shape of {given['name']} is {given['shape']}, -1 for a number above 0")
    data = _binary_data(tensor, binary)
    if given["name"] == "image":
        return _images(shape, given["shape"], data, tensor.get("data"))
    files = _elements(data) if data is not None else _texts(tensor.get("data"))
    if math.prod(shape) != len(files) or len(shape) not in (1, 2):
        raise ValueError(f"the shape of photo is {shape}, it has {len(files)} elements")
    return files


def _binary_data(tensor: dict[str, Any], binary: bytes) -> bytes | None:
    "The tensor's binary data; None if its data are in the JSON."
    parameters = tensor.get("parameters", {})
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if size is None and not binary:
        return None
    if size != len(binary) or "data" in tensor:
        raise ValueError(f"{len(binary)} bytes follow the JSON, binary_data_size is {size!r:.20}")
    return binary


def _images(shape: list[int], wanted: list[int], data: bytes | None, values: Any) -> list[Photo]:
    "Prepared images, uint8 [crop, crop, 3]."
    if len(shape) != 4 or shape[1:] != wanted[1:]:
        raise ValueError(f"the shape of image is {wanted}, not {shape!r:.60}")
    pixels = np.frombuffer(_bytes(values) if data is None else data, np.uint8)
    if pixels.size != math.prod(shape):
        raise ValueError(f"the shape of image is {shape}, it has {pixels.size} elements")
    return list(pixels.reshape(shape))


def _bytes(values: Any) -> bytes:
    "The numbers of a list, nested or not, as bytes."
    try:
        while values and isinstance(values[0], list):
            values = list(itertools.chain.from_iterable(values))
        if isinstance(values, list):
            return bytes(values)
    except (TypeError, ValueError, KeyError):
        pass
    raise ValueError("the data of image are whole numbers from 0 to 255")


def _elements(data: bytes) -> list[bytes]:
    "The elements of a binary BYTES tensor, each behind its length in 4 bytes."
    elements, at = [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "little")
        elements.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    if at != len(data):
        raise ValueError("the binary data of photo are cut short: each element is 4 bytes of its length, then itself")
    return elements


def _texts(values: Any) -> list[bytes]:
    return [from_base64(each) for each in values] if isinstance(values, list) else [from_base64(values)]


def _wanted(request: dict[str, Any], metadata: dict[str, Any]) -> dict[str, bool]:
    "The outputs asked for, and whether each is wanted in binary; all of them if none is named."
    names = [each["name"] for each in metadata["outputs"]]
    binary = _flag(request, "binary_data_output", False)
    asked = request.get("outputs") or [{"name": name} for name in names]
    if not isinstance(asked, list) or not all(isinstance(each, dict) and each.get("name") in names for each in asked):
        raise ValueError(f"`outputs` is a list of tensors by name: {_names(metadata['outputs'])}")
    return {each["name"]: _flag(each, "binary_data", binary) for each in asked}


def _flag(owner: dict[str, Any], name: str, default: bool) -> bool:
    parameters = owner.get("parameters", {})
    value = parameters.get(name, default) if isinstance(parameters, dict) else default
    if not isinstance(value, bool):
        raise ValueError(f"{name} is true or false, not {value!r:.20}")
    return value


def _names(tensors: list[dict[str, Any]]) -> str:
    return ", ".join(each["name"] for each in tensors)


def inference_answer(model: Classifier | Ensemble, name: str, asked: Inference, outcomes: list[Any]) -> Response:
    "The response to a request all of whose photos were read."
    probabilities = np.stack([outcome[1] for outcome in outcomes])
    labels = [outcome[0] for outcome in outcomes]
    unsure = [is_unsure(model, each.max()) for each in probabilities]
    values = {"probabilities": probabilities, "label": labels, "unsure": unsure}
    types = {each["name"]: each["datatype"] for each in model_metadata(model, name)["outputs"]}
    outputs, tail = [], b""
    for output, binary in asked.outputs.items():
        tensor: dict[str, Any] = {"name": output, "datatype": types[output], "shape": list(np.shape(values[output]))}
        if binary:
            data = _packed(values[output])
            tensor["parameters"], tail = {"binary_data_size": len(data)}, tail + data
        else:
            tensor["data"] = probabilities.ravel().tolist() if output == "probabilities" else values[output]
        outputs.append(tensor)
    answer = {"model_name": name, "outputs": outputs} | ({} if asked.id is None else {"id": asked.id})
    if not any(asked.outputs.values()):
        return json_answer(answer)
    head = json.dumps(answer, allow_nan=False).encode()
    return Response(head + tail, headers={LENGTH: str(len(head))}, media_type="application/octet-stream")


def _packed(values: Any) -> bytes:
    "The binary data of an output: float32, booleans, or texts each behind its length."
    if isinstance(values, np.ndarray):
        return values.astype("<f4").tobytes()
    if isinstance(values[0], bool):
        return bytes(values)
    texts = [each.encode() for each in values]
    return b"".join(struct.pack("<I", len(each)) + each for each in texts)

"""A client of model.onnx in ten lines of Pillow, numpy and onnxruntime, written from the line preprocess["steps"]."""

import json
from collections.abc import Iterable, Iterator

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def classify(model: str, photos: Iterable[str]) -> Iterator[tuple[str, np.ndarray]]:
    "The class name of each photo file, and float32 [classes] probabilities."
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    card = {key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}
    resize, crop = card["preprocess"]["resize"], card["preprocess"]["crop"]
    for photo in photos:
        image = ImageOps.exif_transpose(Image.open(photo)).convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
        image = image.resize([resize * side // min(image.size) for side in image.size], Image.Resampling.BILINEAR)
        x, y = (round((side - crop) / 2) for side in image.size)
        (p,) = session.run(["probabilities"], {"image": np.asarray(image.crop((x, y, x + crop, y + crop)))[None]})
        yield card["classes"][p[0].argmax()], p[0]

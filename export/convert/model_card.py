"""Write the model card of a run: README.md with YAML front matter, as the Hugging Face Hub shows it.

https://huggingface.co/docs/hub/model-cards
"""

import re
from typing import Any

from export.publishing.published import last_part
from toolkit.data.preprocess import padding
from toolkit.evaluation.formatting import optimism_note

MARK = "<!-- Written by export.hub. Without this line it leaves the folder alone. -->"

FIGURES = {  # of metrics.json, as the card names them
    "top5": "top-5 accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "weighted_f1": "weighted F1",
    "nll": "negative log-likelihood",
    "brier": "Brier score",
    "ece": "expected calibration error",
    "temperature": "temperature",
}


def literal(text: Any) -> str:
    "`text` as one line of Markdown that is shown literally: no markup, link, HTML, formula or table cell."
    line = " ".join(re.split(r"[\s\x00-\x1f\x7f]+", str(text).strip()))
    return re.sub(r"([!#$&()*+.:<=>?@\[\]\\^_`{|}~])", r"\\\1", line)


def model_card(recipe: dict[str, Any], figures: dict[str, Any], name: str, has_onnx: bool) -> str:
    """Return the card of the model `name`; recipe and figures are the content of recipe.json and metrics.json.

    It states the licence of the pretrained weights, and none of the model: that is the owner's to choose.
    """
    parts = [
        f"---\n{front_matter(recipe, figures, name)}\n---\n{MARK}",
        f"# {literal(name)}\n\n{_origin(recipe)}",
        _figures(recipe, figures),
        _use(recipe, has_onnx),
        CAVEATS,
        _data(recipe),
    ]
    return "\n\n".join(parts) + "\n"


def front_matter(recipe: dict[str, Any], figures: dict[str, Any], name: str) -> str:
    "YAML by huggingface_hub: tags, library, base model if the weights are timm's, accuracy and macro F1."
    from huggingface_hub import EvalResult, ModelCardData

    where = {
        "task_type": "image-classification",
        "dataset_type": "imagefolder",
        "dataset_name": data_name(recipe),
        "dataset_split": "validation",
    }
    results = [
        EvalResult(**where, metric_type=kind, metric_name=shown, metric_value=figures[key])
        for key, kind, shown in (("accuracy", "accuracy", "accuracy"), ("macro_f1", "f1", "macro F1"))
        if key in figures
    ]
    return ModelCardData(
        library_name="timm",
        pipeline_tag="image-classification",
        tags=["image-classification", "timm"],
        base_model=base_model(recipe),
        model_name=name,
        eval_results=results,
    ).to_yaml(line_break="\n")


def data_name(recipe: dict[str, Any]) -> str:
    "The name of the data's folder, CSV or source, without its path."
    return last_part(recipe["data"].get("source") or recipe["data"]["path"]) or "photos"


def base_model(recipe: dict[str, Any]) -> str | None:
    "The hub's name of the pretrained weights; None for random weights, a file, or another source."
    source = (recipe.get("weights") or {}).get("source")
    from_timm = recipe["options"].get("weights") == "imagenet" and re.fullmatch(r"[\w.-]+/[\w.-]+", str(source))
    return source if from_timm else None


def _origin(recipe: dict[str, Any]) -> str:
    options, base = recipe["options"], base_model(recipe)
    start = f"from the weights {literal(base)}" if base else "from random weights"
    if not base and options.get("weights") not in (None, "none"):
        start = f"from the weights {literal(last_part(str(options['weights'])))}"
    shown = [name for name in ("loss", "lr", "bs", "epochs", "seed") if name in options]
    settings = ", ".join(f"{name} {literal(options[name])}" for name in shown)
    return (
        f"timm's {literal(recipe['model']['arch'])}, trained {start} on {literal(data_name(recipe))} to tell "
        f"{len(recipe['classes'])} classes apart, by the recipe {literal(recipe['recipe'])} ({settings})."
        f"{_licence(recipe)}"
    )


def _licence(recipe: dict[str, Any]) -> str:
    licence = (recipe.get("weights") or {}).get("license")
    return f" Licence of the weights that training began with: {literal(licence)}." if licence else ""


def _figures(recipe: dict[str, Any], figures: dict[str, Any]) -> str:
    low, high = figures["accuracy_interval"]
    rows = [f"| accuracy | {figures['accuracy']:.2%} (95 % interval {low:.2%} to {high:.2%}) |"]
    rows += [f"| {shown} | {figures[key]:.4f} |" for key, shown in FIGURES.items() if _is_number(figures.get(key))]
    flattered = optimism_note(figures.get("epochs"))
    on = f"On the {figures['images']} validation photos of {literal(data_name(recipe))}"
    head = f"## Measured\n\n{on}{flattered and f': {flattered}'}.\n"
    return "\n".join([head, "| figure | value |", "|---|---|", *rows])


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _use(recipe: dict[str, Any], has_onnx: bool) -> str:
    crop, resize, fit = (recipe["preprocess"].get(key) for key in ("crop", "resize", "fit"))
    text = TIMM + (ONNX.replace("FITTED", FITTED[fit].format(colour=padding(recipe["preprocess"]))) if has_onnx else "")
    shown = {"pad": "the longer side becomes that, on a square of the mean colour", "squash": "both sides become that"}
    return (
        text
        + f"\n\nPhotos are seen at {crop} pixels: "
        + shown.get(fit, f"the shorter side becomes {resize}, then the centre is cut out.")
    )


FITTED = {  # the lines that make the square, by the key `fit`
    None: """photo = photo.resize([resize * side // min(photo.size) for side in photo.size], Image.Resampling.BILINEAR)
x, y = (round((side - crop) / 2) for side in photo.size)
pixels = np.asarray(photo.crop((x, y, x + crop, y + crop)))""",
    "pad": "pixels = np.asarray(ImageOps.pad(photo, (crop, crop), Image.Resampling.BILINEAR, {colour}))",
    "squash": "pixels = np.asarray(photo.resize((crop, crop), Image.Resampling.BILINEAR))",
}

TIMM = """## Use

DIR is where this folder lies; from the Hub it is `hf-hub:USER/NAME` instead of `local-dir:DIR`.

```python
import timm
import torch
from PIL import Image, ImageOps

model = timm.create_model("local-dir:DIR", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
photo = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")
with torch.no_grad():
    probabilities = model(transform(photo)[None]).softmax(1)[0]
print(model.pretrained_cfg["label_names"][probabilities.argmax()])
```"""

ONNX = """

`model.onnx` needs onnxruntime alone, holds normalisation and softmax, and takes uint8 [batch, height, width, 3], RGB:

```python
import json

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession("DIR/model.onnx", providers=["CPUExecutionProvider"])
card = {key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}
resize, crop = card["preprocess"]["resize"], card["preprocess"]["crop"]
photo = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGBA")
photo = Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo).convert("RGB")
FITTED
probabilities = session.run(["probabilities"], {"image": pixels[None]})[0][0]
print(card["classes"][probabilities.argmax()])
```"""

CAVEATS = """## Caveats

- Any photo gets one of these classes, also one that shows none of them.
- The best epoch was chosen by the accuracy on the validation photos: on new ones expect less. How much less, labelled
  photos tell that chose nothing.
- The interval leaves that choice out, and is for photos like these alone; others, from another camera or place, may
  fare otherwise.
- The model was measured with the preprocessing of the toolkit that trained it. timm's and Pillow's resize give nearly
  the same pixels: a few photos that the model is unsure of may get another label.
- Transparent photos were put on white, and photos turned as their EXIF says; timm's own readers do neither.
- Softmax gives confidence, no certainty: timm's logits divided by the temperature above, unless it is 1, are better
  calibrated."""


def _data(recipe: dict[str, Any]) -> str:
    data, counts = recipe["data"], recipe["data"].get("counts") or {}
    sizes = [f"{data[key]} {shown}" for key, shown in (("train", "to train"), ("valid", "to validate")) if key in data]
    rows = [f"| {literal(name)} | {counts.get(name, '')} |" for name in recipe["classes"]]
    head = f"## Data\n\n{literal(data_name(recipe))}: {literal(', '.join(sizes))} photos.\n"
    return "\n".join([head, "| class | photos to train |", "|---|---|", *rows])

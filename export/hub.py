"""Write a run as a folder that timm loads and that can be pushed to the Hugging Face Hub as it is.

    python -m export.hub runs/hw1/20261124-120000-ce my_model
    hf upload USER/my_model my_model

No file in it holds a path of this machine: the data are named by the last part of their path alone.
"""

import json
import math
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.convert.model_card import MARK, last_part, model_card
from toolkit.command import run_script
from toolkit.files import replacing, write_atomic
from toolkit.run import Run, load

if TYPE_CHECKING:
    from torch import nn

FILES = "README.md model.safetensors model.onnx config.json".split()  # in the order in which they are written


def check_free(folder: Path) -> None:
    """Raises NotADirectoryError if `folder` is a file, FileExistsError if it holds a file that we did not write.

    Names with a leading dot, such as git's, are ignored.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file: give a folder for the model, new or empty")
    names = sorted(path.name for path in folder.glob("*") if not path.name.startswith("."))
    card = folder / "README.md"
    ours = FILES if card.is_file() and MARK in card.read_text(encoding="utf-8", errors="replace") else []
    if others := [name for name in names if name not in ours]:
        raise FileExistsError(f"{folder} holds {others[0]}, which export.hub did not write: give a new or empty folder")


def timm_model(run: Run) -> "nn.Module":
    """Return timm's model with the run's best weights; its pretrained_cfg describes the preparation as closely as it
    can.

    Raises FileNotFoundError if there are no weights yet, ValueError if they do not fit.
    """
    model, preprocess = run.model(), run.recipe["preprocess"]
    own = {
        "input_size": (3, preprocess["crop"], preprocess["crop"]),
        "pool_size": None,
        "mean": tuple(preprocess["mean"]),
        "std": tuple(preprocess["std"]),
        "interpolation": "bilinear",
        "crop_mode": {"pad": "border", "squash": "squash"}.get(preprocess.get("fit"), "center"),
        "crop_pct": crop_share(preprocess["crop"], preprocess["resize"]),
    }
    # these facts are about the weights that timm offers under this name, not about ours
    foreign = ["tag", "license", "origin_url", "paper_ids", "paper_name", "notes", "min_input_size"]
    foreign += ["test_input_size", "test_crop_pct", "test_pool_size"]
    model.pretrained_cfg = model.pretrained_cfg | own | dict.fromkeys(foreign)
    return model


def crop_share(crop: int, resize: int) -> float:
    "timm's crop_pct: the share of `resize` that `crop` is, such that timm's floor(crop / crop_pct) is `resize`."
    share = crop / resize
    return share if math.floor(crop / share) == resize else math.nextafter(share, 0)


def _write_timm_files(run: Run, folder: Path) -> None:
    "model.safetensors and config.json, by timm."
    from timm.models import save_for_hf

    recipe, model = run.recipe, timm_model(run)
    fixed = {"img_size": recipe["preprocess"]["crop"]} if model.pretrained_cfg.get("fixed_input_size") else {}
    save_for_hf(model, folder, {"label_names": recipe["classes"], "model_args": fixed}, safe_serialization=True)


def _write_onnx(run: Run, path: Path) -> None:
    """Write the run's model.onnx without facts of this machine: paths in its options, stack traces in its graph.

    Raises ValueError if it was exported from other weights, or is no ONNX file.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(run.path("model.onnx"))
    except DecodeError as error:
        raise ValueError(f"{run.path('model.onnx')} is not an ONNX file: export it again, or delete it") from error
    metadata = {prop.key: prop.value for prop in model.metadata_props}
    figures = {name: value for name, value in run.metrics.items() if "reliability" not in name}
    if json.loads(metadata.get("metrics", "{}")) != figures:
        raise ValueError(
            f"{run.path('model.onnx')} was exported from other weights than metrics.json was measured with: "
            f"export it again, `python -m export.to_onnx {run.folder}`"
        )
    recipe = json.loads(metadata["recipe"])
    options = recipe["options"].items()
    recipe["options"] = {name: last_part(value) if isinstance(value, str) else value for name, value in options}
    onnx.helper.set_model_props(model, metadata | {"recipe": json.dumps(recipe, ensure_ascii=False)})
    for part in (*model.graph.node, *model.graph.value_info, *(node for f in model.functions for node in f.node)):
        del part.metadata_props[:]
    onnx.save(model, path)


def _measured(run: Run) -> dict[str, Any]:
    "The content of metrics.json. Raises FileNotFoundError or ValueError if figures of the card are missing."
    figures, file = run.metrics, run.path("metrics.json")
    if not figures:
        raise FileNotFoundError(f"{file} is not there: the run has not been evaluated yet")
    interval = figures.get("accuracy_interval")
    whole = isinstance(interval, list) and [type(end) for end in interval] == [float, float]
    if not whole or not {"accuracy", "images"} <= figures.keys():
        raise ValueError(f"{file} has no accuracy, accuracy_interval or images: it was not written by a recipe")
    return figures


def hub(
    run: Path,  # run folder with its best.safetensors and metrics.json
    folder: Path,  # folder to write: new, empty, or one that this command wrote
) -> Path:
    """Write a run as a folder for timm and the Hugging Face Hub: weights, config.json and a model card.

    Returns the folder, which `timm.create_model("local-dir:FOLDER", pretrained=True)` loads; model.onnx is included if
    the run has one. config.json is written last: without it timm loads nothing. Raises FileNotFoundError for a run
    without weights or figures, and as `check_free` does.
    """
    trained, folder = load(run), Path(folder)
    check_free(folder)
    with tempfile.TemporaryDirectory() as name:
        made = Path(name)
        _write_timm_files(trained, made)
        figures, has_onnx = _measured(trained), trained.path("model.onnx").is_file()
        if has_onnx:
            _write_onnx(trained, made / "model.onnx")
        write_atomic(made / "README.md", model_card(trained.recipe, figures, folder.resolve().name, has_onnx))
        for file in reversed(FILES[1:]):
            (folder / file).unlink(missing_ok=True)
        for file in FILES:
            if (made / file).exists():
                with replacing(folder / file) as beside:
                    shutil.copyfile(made / file, beside)
    print(f"model {folder}\nload it: timm.create_model({f'local-dir:{folder}'!r}, pretrained=True)", flush=True)
    return folder


if __name__ == "__main__":
    run_script(hub)

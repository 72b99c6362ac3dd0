"""Write a run as a folder that timm loads and that can be pushed to the Hugging Face Hub as it is.

    python -m export.hub runs/hw1/20261124-120000-ce my_model
    python -m export.hub runs/hw1/20261124-120000-ce USER/my_model --push --space

No file in it holds a path of this machine: the data are named by the last part of their path alone.
"""

import json
import math
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.browser.space import SPACE_FILES, write_space
from export.convert.model_card import MARK, model_card
from export.publishing.own_folder import check_free
from export.publishing.published import published
from export.publishing.upload import Upload, check_name, listed, send
from toolkit.command import run_script
from toolkit.files import replacing, write_atomic
from toolkit.run import Run, load

if TYPE_CHECKING:
    from torch import nn

FILES = "README.md model.safetensors model.onnx config.json".split()  # in the order in which they are written


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
    onnx.save(published(model), path)


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
    folder: str,  # folder to write, new or empty or one that this command wrote; with --push the repository, USER/NAME
    push: bool = False,  # upload it to the hub as USER/NAME, in place of writing a folder
    space: bool = False,  # with --push: upload the page of export.web too, as the Space USER/NAME
    dry_run: bool = False,  # with --push: list what would go, and send nothing
    private: bool = False,  # with --push: make a new repository private
    runtime: Path | None = None,  # with --space: onnxruntime-web as npm packs it (default: npm brings it)
) -> Path | str:
    """Write a run as a folder for timm and the Hugging Face Hub: weights, config.json and a model card.

    Returns the folder, which `timm.create_model("local-dir:FOLDER", pretrained=True)` loads, or with `push` the address
    of the repository. model.onnx is included if the run has one. config.json is written last: without it timm loads
    nothing. Raises FileNotFoundError for a run without weights or figures, ValueError for options that don't fit
    together, FileExistsError if files of somebody else would be lost, PermissionError or ConnectionError if the hub
    refuses, OSError if npm can't bring what the Space needs.
    """
    if (space or dry_run or private or runtime) and not push:
        raise ValueError("--space, --dry_run, --private and --runtime are of --push: add it, or leave them out")
    trained = load(run)
    if push:
        return _push(trained, str(folder), space, dry_run, private, runtime)
    write_folder(trained, folder := Path(folder), folder.resolve().name)
    print(f"model {folder}\nload it: timm.create_model({f'local-dir:{folder}'!r}, pretrained=True)", flush=True)
    return folder


def write_folder(run: Run, folder: Path, name: str) -> None:
    "Write the folder of the model `name`. config.json is written last. Raises as `hub` does."
    check_free(folder, "README.md", MARK, FILES, "export.hub")
    with tempfile.TemporaryDirectory() as temporary:
        made = Path(temporary)
        _write_timm_files(run, made)
        figures, has_onnx = _measured(run), run.path("model.onnx").is_file()
        if has_onnx:
            _write_onnx(run, made / "model.onnx")
        write_atomic(made / "README.md", model_card(run.recipe, figures, name, has_onnx))
        for file in reversed(FILES[1:]):
            (folder / file).unlink(missing_ok=True)
        for file in FILES:
            if (made / file).exists():
                with replacing(folder / file) as beside:
                    shutil.copyfile(made / file, beside)


def _push(run: Run, repository: str, space: bool, dry_run: bool, private: bool, runtime: Path | None) -> str:
    "Upload the model, and the Space if it is asked for; or list both. Returns the model's address."
    check_name(repository)
    with tempfile.TemporaryDirectory() as temporary:
        model, page = Path(temporary) / "model", Path(temporary) / "space"
        write_folder(run, model, repository.partition("/")[2])
        uploads = [Upload(model, repository, "model", MARK, FILES, private)]
        if space:
            write_space(model / "model.onnx", page, repository, runtime)
            uploads.append(Upload(page, repository, "space", MARK, SPACE_FILES, private))
        if not dry_run:
            send(uploads)
        for upload in uploads:
            print(listed(upload) if dry_run else f"{upload.kind} {upload.address}", flush=True)
    return uploads[0].address


if __name__ == "__main__":
    run_script(hub)

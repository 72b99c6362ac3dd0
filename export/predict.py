"""Photos -> predictions.csv, with nothing but a model file.

    python -m export.predict model.onnx photos --out predictions.csv

IMAGES is a folder, a photo, a quoted glob or a .txt file of paths. export/predictions/inputs.py says how each photo is
named, export/predictions/columns.py which columns there are. Rows are in natural order of the name.

While it runs, what is done stands in predictions.csv.partial: killed at any moment, the same command with --resume goes
on from there, and ends with the same files, byte for byte, as a run that was not. predictions.csv appears whole, at the
end; until then it grows in a hidden file beside it, which the next run to that file clears if this one was killed.
Without --resume an unfinished run is begun anew, and a line says so.
"""

from pathlib import Path
from typing import Annotated

from export.predictions import formats
from export.predictions.local import predict_here
from export.runtime.providers import DEVICES
from export.session import TTA
from toolkit.command import run_script


def _check_engine(engine: str, images, out, format: str, of_ray: list, of_one_file: dict) -> None:
    "Raises ValueError where an option means nothing to the engine."
    if engine == "ray":
        if given := [flag for flag, value in of_one_file.items() if value]:
            raise ValueError(
                f"--engine ray writes a folder of shards from many processes: leave out {', '.join(given)}"
            )
        if format not in ("auto", "parquet"):
            raise ValueError(f"--engine ray --format {format}: it writes Parquet; leave out --format")
    elif any(value is not None for value in of_ray):
        raise ValueError("--address, --share and --actors are of --engine ray: add it, or leave them out")
    elif uris := [str(value) for value in (images, out) if isinstance(value, str) and "://" in value]:
        raise ValueError(f"{uris[0]} is a URI: only --engine ray reads and writes these")


def exit_status(unread: list) -> int:
    "2 where photos could not be read, else 0: what predict, and a recipe that ends with it, exits with."
    return 2 if unread else 0


def predict(
    model: Path,  # model.onnx; nothing else is needed
    images: str,  # a folder, a photo, a quoted glob, a .txt file of paths; of --engine ray also URIs
    out: str | None = None,  # the file to write (predictions.csv); of --engine ray a folder or URI (predictions)
    device: Annotated[str, {"choices": DEVICES}] = "auto",  # where the model runs; auto says what it chose
    bs: str = "auto",  # images a batch; auto says what it chose, for the model and the memory there is
    workers: int | None = None,  # threads, or with a GPU processes, that read photos; one a core unless given
    probabilities: bool = False,  # add confidence and a column a class
    fallback: str = "",  # pred_label of a photo that can't be read
    resume: bool = False,  # go on with a run that was killed; the file becomes the same
    top: int = 0,  # add so many of the likeliest classes, each with its confidence
    tta: Annotated[str, {"choices": TTA}] = "none",  # flip: mean of a photo and its mirror, at twice the time
    format: Annotated[str, {"choices": ["auto", *formats.KINDS]}] = "auto",  # of the file; auto: what its suffix says
    sample: Path | None = None,  # sample_submission.csv: its ids, in its order, in its columns
    zip: bool = False,  # also write the file into a .zip beside it
    engine: Annotated[str, {"choices": ["local", "ray"]}] = "local",  # ray: a cluster, into a folder
    address: str | None = None,  # of the cluster, HOST:PORT; else RAY_ADDRESS's, else this machine alone
    share: float | None = None,  # CPUs of each of its actors (4), or with a GPU device GPUs (1), also a part of one
    actors: int | None = None,  # at most so many; as many as the nodes hold unless given
    profile: bool = False,  # tell the seconds of each stage, and what bounds the run
) -> list[tuple[str, Path, str]]:
    """Label photos with a model.onnx and write predictions.csv.

    From Python, `images` may be a dict, path by name. Returns the photos that can't be read, as (image_name, path,
    reason): they keep their row, are listed on stderr and in predictions.errors.csv beside it, and make the command's
    exit status 2.
    Raises ValueError or OSError, and leaves `out` as it was, where model, device, images or `out` itself are no good,
    and where `resume` finds the work of another model, other images or other options, which it names.
    """
    _check_engine(
        engine, images, out, format, [address, share, actors], {"--sample": sample, "--zip": zip, "--profile": profile}
    )
    common = {
        "device": device,
        "bs": bs,
        "workers": workers,
        "probabilities": probabilities,
        "top": top,
        "tta": tta,
        "fallback": fallback,
        "resume": resume,
    }
    if engine == "ray":
        from export.cluster.engine import predict_on_cluster

        return predict_on_cluster(
            model, images, out or "predictions", **common, address=address, share=share, actors=actors
        )
    out = Path(out or f"predictions.{'csv' if format == 'auto' else format}")
    return predict_here(Path(model), images, out, **common, format=format, sample=sample, zipped=zip, profile=profile)


if __name__ == "__main__":
    run_script(predict, status=exit_status)

"""The options of `export.predict`, each stated once: its type, choices, default and help, for both engines."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

from typing_extensions import Doc

from export.predictions.formats import KINDS
from export.predictions.sort import AS
from export.runtime.providers import DEVICES
from export.session import TTA
from toolkit.commandline.parameters import field_comments


@dataclass(frozen=True)
class PredictOptions:
    "How photos are labelled and what is written. The comment after an option is its help."

    out: str | Path | None = None  # file to write (default: predictions.csv); for ray a folder or URI (predictions)
    device: Annotated[str, {"choices": DEVICES}] = "auto"  # where the model runs; auto prints its choice
    bs: int | Literal["auto"] = "auto"  # batch size; auto chooses by model and free memory, and prints its choice
    workers: int | None = None  # threads (with a GPU: processes) that read photos; one per core unless given
    probabilities: bool = False  # add the confidence and one column per class
    fallback: str = ""  # pred_label of a photo that can't be read or is unsure (default: empty; unsure)
    answer_all: bool = False  # label unsure photos too, if the model has a promised precision
    resume: bool = False  # continue a run that was killed; the file is the same as without the kill
    top: int = 0  # add the N most likely classes, each with its confidence
    tta: Annotated[str, {"choices": TTA}] = "none"  # flip: mean of a photo and its mirror image, at twice the time
    format: Annotated[str, {"choices": ["auto", *KINDS]}] = "auto"  # file format; auto: by the suffix of --out
    sample: Path | None = None  # sample_submission.csv: the table gets its ids, their order and its columns
    zip: bool = False  # also write the file into a .zip beside it
    sort: Path | None = None  # folder for a link to each photo by its label; export.unsort undoes it
    sort_as: Annotated[str, {"choices": AS}] = "link"  # copy: copies of the photos instead of links
    engine: Annotated[str, {"choices": ["local", "ray"]}] = "local"  # ray: on a cluster, into a folder
    address: str | None = None  # address of the cluster, HOST:PORT (default: RAY_ADDRESS, else this machine alone)
    share: float | None = None  # CPUs per actor (default: 4); with GPUs, GPUs per actor (default: 1; may be a fraction)
    actors: int | None = None  # the largest number of actors (default: as many as the nodes hold)
    profile: bool = False  # print the seconds of each stage, and which stage limits the speed
    features: Path | None = None  # also write each photo's features: FILE.npy or FILE.parquet, a row for each row

    def __post_init__(self) -> None:
        for field in fields(self):
            check_choice(field.name, getattr(self, field.name), field.type)


def check_choice(name: str, value: object, annotation: object) -> None:
    "Raises ValueError for a value that is not among the choices of its annotation."
    for note in getattr(annotation, "__metadata__", ()):
        if isinstance(note, dict) and value not in note["choices"]:
            raise ValueError(f"unknown {name} {value!r}: choose one of {', '.join(note['choices'])}")


def check_engine(options: PredictOptions, images: object, models: int = 1) -> None:
    "Raises ValueError for an option that the chosen engine does not have."
    if options.engine == "ray":
        if models > 1:
            raise ValueError(
                f"--engine ray takes one model, not {models}: average them in one file by `python -m export.average`"
            )
        flags = {"--sample": options.sample, "--zip": options.zip, "--profile": options.profile}
        flags |= {"--features": options.features, "--sort": options.sort}
        if given := [flag for flag, value in flags.items() if value]:
            raise ValueError(
                f"--engine ray writes a folder of shards from many processes: leave out {', '.join(given)}"
            )
        if options.format not in ("auto", "parquet"):
            raise ValueError(f"--engine ray --format {options.format}: it writes Parquet; leave out --format")
    elif any(value is not None for value in (options.address, options.share, options.actors)):
        raise ValueError("--address, --share and --actors belong to --engine ray: add it, or leave them out")
    elif uris := [str(value) for value in (images, options.out) if isinstance(value, str) and "://" in value]:
        raise ValueError(f"{uris[0]} is a URI: only --engine ray reads and writes URIs")


def with_keywords(function: Callable) -> Callable:
    """`function`, whose last parameter is a PredictOptions, with a parameter for each option in place of that one.

    Command line, help and completion are read from its signature. Raises TypeError for an unknown name, as Python does.
    """
    own = list(inspect.signature(function).parameters.values())[:-1]
    returned = inspect.signature(function).return_annotation
    signature = inspect.Signature([*own, *_parameters()], return_annotation=returned)

    @functools.wraps(function)
    def call(*given, **named):
        values = signature.bind(*given, **named).arguments
        return function(*(values.pop(parameter.name) for parameter in own), PredictOptions(**values))

    call.__signature__ = signature
    call.__annotations__ = {name: each.annotation for name, each in signature.parameters.items()}
    return call


def _parameters() -> list[inspect.Parameter]:
    "A parameter for each option, annotated with its help: `Annotated[int, Doc('help')]`."
    help_texts = field_comments(PredictOptions)
    assert all(field.default is not MISSING for field in fields(PredictOptions))
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=field.default,
            annotation=Annotated[field.type, Doc(help_texts[field.name])],
        )
        for field in fields(PredictOptions)
    ]

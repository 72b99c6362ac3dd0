"""All options that recipes share: type, choices, default, help, and a mark if `--resume` may change them.

A trailing comment is an option's help. A recipe adds its own defaults and options by `recipes.recipe`.
The ranges of numbers are in toolkit/ranges.py.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

Auto = Literal["auto"]
Figure = Literal["accuracy", "balanced_accuracy", "macro_f1", "loss"]

FREE = "may change when a run is resumed"
"Marks the type of an option that does not change the method of a run."


@dataclass(frozen=True)
class Options:
    "The values of all shared options of a run."

    # Data
    data: Annotated[Path, FREE] = Path("data")  # folder of photos, CSV with path,label, zip, Parquet, or hf://USER/NAME

    # Loss
    loss: Literal["ce", "focal", "smoothing"] = "ce"  # training loss
    gamma: float | None = None  # focal loss exponent, >= 0; 0 is cross-entropy (default: 2)
    smoothing: float | None = None  # share of the target spread over all classes, >= 0 and < 1 (default: 0.1)
    class_weights: Literal["none", "balanced", "effective"] = "none"  # weights of rare classes in the loss
    sampler: Literal["shuffle", "balanced"] = "shuffle"  # each photo once an epoch, or all classes equally often

    # Model
    arch: str = "resnet152.tv2_in1k"  # any timm classifier, or auto: compares pretrained networks on the photos
    weights: str = "imagenet"  # pretrained weights: imagenet, none, or a .pth or .safetensors file; for auto a folder
    fetch: Annotated[int, FREE] = 0  # number of networks that --arch auto may download, the most accurate first
    any_license: Annotated[bool, FREE] = False  # --arch auto: also weights whose licence forbids commercial use

    # Training
    epochs: Annotated[int | None, FREE] = None  # passes over the training photos
    lr: float | Auto | None = None  # learning rate, or auto: by the LR finder
    bs: int | Auto | None = None  # batch size, or auto: the largest that fits in memory
    accum: int = 1  # batches accumulated for an optimiser step
    image_size: int = 224  # side of the square that the network sees, in pixels
    fit: Literal["crop", "pad", "squash"] = "crop"  # centre of a photo, or all of it: padded, or squashed to a square
    best: Figure = "accuracy"  # validation figure that chooses the epoch whose weights are kept
    patience: Annotated[int | None, FREE] = None  # end training after as many epochs without a better one (default: no)

    promise: Annotated[float | None, FREE] = None  # precision of answers: less certain photos get none (default: no)

    # Computing
    workers: Annotated[int | Auto | None, FREE] = None  # data-loading processes; auto: measured (default: one a core)
    device: Annotated[str, FREE] = "auto"  # auto, cuda or cpu
    precision: Literal["auto", "fp16", "bf16", "fp32"] = "auto"  # number format of the forward pass
    exact: bool = False  # compute as a plain loop does, to the bit: no channels last, fused AdamW, TF32
    compile: bool = False  # compile the network by torch.compile, which takes minutes at first
    cuda_graphs: bool = False  # have a GPU run each batch as one recorded program: faster steps of small networks
    seed: int = 0  # seed of the head's weights, the split, the order and the augmentation
    skip_unreadable: bool = False  # leave out photos that can't be read, instead of refusing the data
    without: Path | None = None  # CSV with a column file: photos left out, as of `check --csv` (default: none)
    image_column: str | None = None  # column of the photos in Parquet files (default: found by its type)
    label_column: str | None = None  # column of the labels in Parquet files (default: found by its type)
    cache: Annotated[Path | None, FREE] = None  # folder for decoded photos, for this and later runs (default: none)

    # Folds
    folds: int | None = None  # number of models, each trained without another part of the photos (default: one, on all)
    fold: int | None = None  # train this one of the --folds alone, from 1 on (default: all, one after another)
    refit: Annotated[bool, FREE] = False  # after the --folds, train model.onnx on all photos, instead of averaging them

    # Run
    save_every: Annotated[int, FREE] = 0  # optimiser steps between saves inside an epoch (0: only after each epoch)
    profile: Annotated[bool, FREE] = False  # print where an epoch's time goes, and what may help
    log: Annotated[tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...], FREE] = ()  # experiment trackers
    out: Annotated[Path | None, FREE] = None  # run folder (default: runs/<recipe>/<time>-<loss>)
    resume: Annotated[bool, FREE] = False  # continue the run in --out


def is_free(annotation: Any) -> bool:
    "True if an option of this type may change when a run is resumed."
    return get_origin(annotation) is Annotated and FREE in get_args(annotation)


TYPES = get_type_hints(Options, include_extras=True)
"The type of each shared option by name, in the order of `--help`."

FREE_NAMES = frozenset(name for name, annotation in TYPES.items() if is_free(annotation))


def without_marks(annotation: Any) -> Any:
    "Return the type itself, without its Annotated marks."
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def check_choices(values: dict[str, Any], types: dict[str, Any] = TYPES) -> None:
    "Raises ValueError for a value that is not among the choices of its option, or for a word that is no number."
    for name, value in values.items():
        kind = without_marks(types.get(name, Any))
        choices = get_args(kind) if get_origin(kind) is Literal else ()
        if choices and value not in choices:
            raise ValueError(f"unknown --{name} {value!r}: choose one of {', '.join(choices)}")
        if Auto in get_args(kind) and isinstance(value, str) and value != "auto":
            raise ValueError(f"--{name} {value!r} is neither a number nor auto")


def recorded_options(recorded: dict[str, Any], **changes: Any) -> Options:
    """The shared options of a recipe.json's `options`, with `changes`. Those of the recipe's own are left out.

    Raises ValueError for a recorded value that is not among the choices of its option.
    """
    values = {name: value for name, value in recorded.items() if name in TYPES} | changes
    check_choices(values)
    return Options(**{name: converted(value, TYPES[name]) for name, value in values.items()})


def converted(value: Any, annotation: Any) -> Any:
    "Return the value converted to its type: a text to a Path or the reverse, a list to a tuple."
    kind = without_marks(annotation)
    if isinstance(value, str) and Path in (kind, *get_args(kind)):
        return Path(value)
    if isinstance(value, Path) and kind is str:
        return str(value)
    return tuple(value) if isinstance(value, list) else value


def is_on_hub(data: str | Path) -> bool:
    "True if `data` names a data set of the hub, hf://USER/NAME."
    return data_text(data).startswith("hf://")


def data_text(data: str | Path) -> str:
    "Return `data` as it was given: a Path has one slash less of hf://USER/NAME."
    return re.sub(r"^hf:/+", "hf://", Path(data).as_posix()) if str(data).startswith("hf:") else str(data)


def check_folds(options: Options) -> None:
    "Raises ValueError for --fold or --refit without --folds, for a fold that is not one of them, and for both at once."
    for name in ("fold", "refit"):
        if getattr(options, name) and options.folds is None:
            raise ValueError(f"--{name} without --folds: say how many folds there are, as in --folds 5")
    if options.fold and options.fold > options.folds:
        raise ValueError(f"--fold {options.fold} of --folds {options.folds}: give a number from 1 to {options.folds}")
    if options.fold and options.refit:
        raise ValueError(f"--fold {options.fold} trains one fold alone, --refit comes after all: leave one of them out")


def missing_data(data: str | Path) -> str:
    "The message for data that is not there."
    return (
        f"{data} does not exist: give a folder of photos or a CSV with columns path,label; a zip, Parquet files "
        "and hf://USER/NAME are taken too"
    )


def check_paths(options: Options) -> None:
    "Raises FileNotFoundError if the data, the list of photos left out or the file of pretrained weights is missing."
    if not options.data.exists() and not is_on_hub(options.data):
        raise FileNotFoundError(missing_data(options.data))
    if options.without and not options.without.is_file():
        raise FileNotFoundError(f"--without {options.without}: no such file; it takes a CSV with a column file")
    folder = options.arch == "auto" and Path(options.weights).is_dir()
    if options.weights not in ("imagenet", "none") and not Path(options.weights).is_file() and not folder:
        raise FileNotFoundError(
            f"--weights {options.weights}: no such file; it takes imagenet, none, or a .pth or .safetensors file"
        )

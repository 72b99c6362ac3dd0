"""A timm model with a fresh head, and its weights: from the hub, from a file, or none."""

import difflib
import sys
import urllib.error
import urllib.request
from collections.abc import Collection
from pathlib import Path
from typing import Any

import huggingface_hub
import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from toolkit.errors import reason_of
from toolkit.options import Options
from toolkit.schema import read_recipe


def create_model(
    arch: str, classes: int, weights: str = "imagenet", dropout: float = 0.0, image_size: int = 224
) -> nn.Module:
    """timm's `arch` with a new head, Dropout(dropout) then Linear(classes): float [batch, 3, image_size, image_size] ->
    logits [batch, classes]. The linear layer is drawn as torch draws its nn.Linear, whatever the network.

    weights: `imagenet` (timm's own for that name, from the hub or its cache), `none` (random), or a state dict in a
    .pth, .pt or .safetensors file, of which the classifier is left out and all the rest must fit. Nothing is unpickled.
    The model's `origin` says where its weights are from: {"source", "loaded" (tensors), "left_out" (names), "license"
    (None if it is not known), "made_for" (the photos they were trained on: mean, std, input_size, crop_pct,
    interpolation; None for random ones), and "assumed" where these are timm's of the architecture}.

    Raises ValueError for an unknown name, weights that do not fit or a size that the network does not take,
    FileNotFoundError for a missing file, ConnectionError where the hub is out of reach.
    """
    _known(arch)
    if weights == "imagenet":
        model = _pretrained(arch, classes, dropout, image_size)
    else:
        model = _create(arch, classes, dropout, image_size)
        model.origin = {"source": "none", "loaded": 0, "left_out": [], "license": None, "made_for": None}
        if weights != "none":
            load_body(model, Path(weights))
    check_size(model, image_size, "image_size")
    return model


@torch.no_grad()
def check_size(model: nn.Module, size: int, option: str) -> None:
    """Raises ValueError, naming the option, where a pass of `model` over a square of `size` pixels fails.

    Only the pass itself knows: its layers may leave nothing of a small one, its patches or windows may not divide it.
    """
    training = model.training
    try:
        model.eval()(torch.zeros(1, 3, size, size))
    except Exception as error:  # a network may raise anything where its layers are left with too little
        usual = model.pretrained_cfg["input_size"][-1]
        raise ValueError(
            f"--{option} {size}: {type(model).__name__} takes no photos of that size ({reason_of(error)}); {usual} is "
            "what it was made for"
        ) from error
    finally:
        model.train(training)


def _known(arch: str) -> None:
    if timm.is_model(arch):
        tag = arch.partition(".")[2]
        tags = [name.partition(".")[2] for name in timm.list_pretrained(arch.partition(".")[0] + ".*")]
        if not tag or tag in tags:
            return
        raise ValueError(
            f"timm's {arch.partition('.')[0]} has no weights tagged {tag!r}: choose one of {', '.join(tags)}"
        )
    names = timm.list_models() + timm.list_models(pretrained=True)
    near = difflib.get_close_matches(arch, names, n=5, cutoff=0.5)
    hint = f"nearest: {', '.join(near)}" if near else "see timm.list_models()"
    raise ValueError(f"timm {timm.__version__} has no model {arch!r}; {hint}")


def _create(arch: str, classes: int, dropout: float, image_size: int, **options: object) -> nn.Module:
    config = timm.get_pretrained_cfg(arch)
    if config is not None and config.fixed_input_size:  # transformers fix their number of patches when they are built
        options["img_size"] = image_size
    try:
        model = timm.create_model(arch, num_classes=classes, drop_rate=dropout, **options)
    except (AssertionError, TypeError, ValueError) as error:
        raise ValueError(f"timm can't build {arch} for {classes} classes at {image_size} pixels: {error}") from error
    _draw_head(model)
    return model


def _draw_head(model: nn.Module) -> None:
    """Draw the classifier anew as torch does an nn.Linear: uniform, with a deviation of 1 / sqrt(3 * features).

    timm has a way of its own for each family. A MobileNet's deviation is 0.13 for 20 classes and 0.41 for 2, and its
    first loss is twice that of guessing; a transformer's head is zero.
    """
    for layer in sorted({name.rpartition(".")[0] for name in _head_tensors(model)}):
        model.get_submodule(layer).reset_parameters()


def _pretrained(arch: str, classes: int, dropout: float, image_size: int) -> nn.Module:
    config = timm.get_pretrained_cfg(arch)
    if config is None or not config.has_weights:
        raise ValueError(f"timm has no pretrained weights for {arch}: give --weights none or a file")
    cached = _in_hub_cache(config)
    if cached is None:
        _reach_hub(arch, config.hf_hub_id)
    overlay = {"pretrained_cfg_overlay": {"file": cached}} if cached else {}
    model = _create(arch, classes, dropout, image_size, pretrained=True, **overlay)
    head = _head_tensors(model)
    model.origin = {
        "source": config.hf_hub_id or config.url,
        "loaded": len(model.state_dict()) - len(head),
        "left_out": head,
        "license": config.license,
        "made_for": _made_for(model),
    }
    return model


def _made_for(model: nn.Module) -> dict[str, Any]:
    "How photos were prepared that timm's weights of this architecture were trained on."
    config = model.pretrained_cfg
    names = ("mean", "std", "crop_pct", "interpolation")
    return {name: config[name] for name in names} | {"input_size": config["input_size"][-1]}


def _known_of(path: Path, model: nn.Module) -> dict[str, Any]:
    """The licence of a weights file and the preparation of its photos, for `origin`.

    A file in the folder of a run has those of the run. Any other is taken for timm's own weights of the architecture,
    which "assumed" says.
    """
    made_for = _made_for(model)
    if not (path.parent / "recipe.json").is_file():
        return {"license": None, "made_for": made_for, "assumed": True}
    recipe = read_recipe(path.parent / "recipe.json")
    own = {name: recipe["preprocess"][name] for name in ("mean", "std")}
    own |= {"input_size": recipe["preprocess"]["crop"], "interpolation": "bilinear"}
    own["crop_pct"] = recipe["preprocess"]["crop"] / recipe["preprocess"]["resize"]
    return {"license": (recipe.get("weights") or {}).get("license"), "made_for": made_for | own}


def normalization_of(model: nn.Module) -> dict[str, tuple[float, ...]]:
    "mean and std for `toolkit.data.preprocess.for_size`, as the model's weights know photos; none for random weights."
    made_for = model.origin["made_for"]
    return {name: tuple(made_for[name]) for name in ("mean", "std")} if made_for else {}


def _in_hub_cache(config: timm.models.PretrainedCfg) -> str | None:
    "The file of these weights in huggingface_hub's cache: looked up before the network, which may be away."
    for name in (config.hf_hub_filename, "model.safetensors", "pytorch_model.bin"):
        found = config.hf_hub_id and name and huggingface_hub.try_to_load_from_cache(config.hf_hub_id, name)
        if isinstance(found, str):
            return found
    return None


def _reach_hub(arch: str, repository: str | None) -> None:
    "Fail at once, with a way out, where huggingface_hub would retry for a minute."
    endpoint = huggingface_hub.constants.ENDPOINT
    try:
        if huggingface_hub.constants.HF_HUB_OFFLINE:
            raise OSError("HF_HUB_OFFLINE is set")
        urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=20).close()
    except urllib.error.HTTPError:
        pass  # an answer, if not a friendly one: it is there
    except OSError as error:
        raise ConnectionError(
            f"no way to {endpoint} for the ImageNet weights of {arch} ({getattr(error, 'reason', error)}): give "
            f"--weights FILE (.pth, .safetensors) or none, or bring {repository} into this machine's hub cache "
            f"({huggingface_hub.constants.HF_HUB_CACHE})"
        ) from error


def load_body(model: nn.Module, path: Path) -> None:
    """Load every tensor of `model` but its classifier's from a state dict, and note it in `model.origin`.

    Raises FileNotFoundError, or ValueError where the file is no state dict or does not fit the body tensor by tensor.
    """
    state, head = read_state(path), _head_tensors(model)
    own = {name: tensor for name, tensor in model.state_dict().items() if name not in head}
    left_out = sorted(name for name in state if name in head)
    body = {name: tensor for name, tensor in state.items() if name not in head}
    missing = sorted(own.keys() - body.keys())
    unknown = sorted(body.keys() - own.keys())
    if _reshaped(own, body) and not missing + unknown:
        body = _resampled(body, model)
    reshaped = _reshaped(own, body)
    if missing or unknown or reshaped:
        fits = len(own) - len(missing) - len(reshaped)
        raise ValueError(
            f"{path} does not fit {type(model).__name__}: {fits} of the body's {len(own)} tensors match; "
            f"{_some('missing', missing)}{_some('of another shape', reshaped)}{_some('unknown', unknown)}"
            "give the weights of this very architecture"
        )
    try:
        model.load_state_dict(body, strict=False)
    except RuntimeError as error:  # of that name and shape, and still no tensor to copy: sparse, quantised
        raise ValueError(f"{path} does not fit {type(model).__name__}: {reason_of(error)}") from error
    model.origin = {"source": str(path), "loaded": len(body), "left_out": left_out, **_known_of(path, model)}


def _reshaped(own: dict[str, Tensor], body: dict[str, Tensor]) -> list[str]:
    return sorted(name for name in own.keys() & body.keys() if own[name].shape != body[name].shape)


def _resampled(body: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    "With the position embeddings of another image size resampled, as timm does for its own weights, where it can."
    resample = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    own = model.state_dict()
    if any(body[name].ndim > 3 for name in _reshaped(own, body)):  # another patch size is another architecture
        return body
    try:
        resampled = resample(dict(body), model) if resample else body
    except Exception:  # what it expects of other shapes than these; they are told as they are
        return body
    return resampled if resampled.keys() == body.keys() else body


def _some(what: str, names: list[str]) -> str:
    return f"{len(names)} {what} ({', '.join(names[:3])}{' …' if len(names) > 3 else ''}); " if names else ""


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict in a .safetensors, .pth or .pt file, read without running anything in it.

    A dict under "state_dict", "model" or "model_state_dict" is taken out, and DataParallel's "module." cut off.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"--weights {path}: no such file; it takes imagenet, none, or a .pth or .safetensors file"
        )
    try:
        state = (
            load_file(path)
            if path.suffix.lower() == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:  # a damaged or malicious file may make the readers raise anything
        raise ValueError(
            f"{path} holds no weights that can be read safely ({reason_of(error)}): "
            "save model.state_dict(), or as .safetensors"
        ) from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    tensors = isinstance(state, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items())
    if not tensors or not state:
        raise ValueError(f"{path} is not a state dict (names to tensors): save model.state_dict()")
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def _head_tensors(model: nn.Module) -> list[str]:
    "Names of the classifier's tensors in the state dict."
    named = model.pretrained_cfg["classifier"]
    heads = (named,) if isinstance(named, str) else tuple(named)
    return [name for name in model.state_dict() if name.rpartition(".")[0] in heads]


class Deployable(nn.Module):
    """`model` with what comes before and after it: uint8 [batch, height, width, 3] RGB -> logits and probabilities,
    float32 [batch, classes]. mean and std as `toolkit.data.preprocess` has them, of pixels between 0 and 1.

    temperature: what the logits are divided by before the softmax; see `toolkit.evaluation.calibration.temperature`.
    """

    def __init__(self, model: nn.Module, mean: list[float], std: list[float], temperature: float = 1.0):
        super().__init__()
        self.model, self.temperature = model, temperature
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.model((image.permute(0, 3, 1, 2).float() - self.mean) / self.std)
        return logits, (logits / self.temperature).softmax(dim=-1)


def load_weights(model: nn.Module, path: Path) -> None:
    "Put a .safetensors file into `model`, every tensor of it. Raises ValueError where it does not fit."
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: the run has not finished its first epoch")
    try:
        model.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{path} does not hold this model's weights ({str(error).strip().splitlines()[0]})") from error


def make_model(options: Options, classes: Collection[str], dropout: float = 0.0) -> nn.Module:
    "The model by --arch, --weights and --image_size, with a new head for `classes`: see `create_model`."
    return create_model(options.arch, len(classes), options.weights, dropout, options.image_size)

"""Pretrained weights from the hub or a file, without the classifier, and a run's weights, with it."""

import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from toolkit.data.sources.hub import hub_fault
from toolkit.errors import reason_of
from toolkit.schema import read_recipe

# From the hub


def hub_options(arch: str) -> dict[str, Any]:
    """Return the options of timm.create_model for timm's own weights of `arch`, from the local cache or the hub.

    Raises ValueError for an architecture without pretrained weights, ConnectionError if the hub is out of reach.
    """
    config = timm.get_pretrained_cfg(arch)
    if config is None or not config.has_weights:
        raise ValueError(f"timm has no pretrained weights for {arch}: give --weights none or a file")
    cached = in_hub_cache(config)  # before the network, which may be down
    if cached is None:
        _reach_hub(arch, config.hf_hub_id)
    return {"pretrained": True} | ({"pretrained_cfg_overlay": {"file": cached}} if cached else {})


def hub_origin(arch: str, model: nn.Module) -> dict[str, Any]:
    "The `origin` of a model with timm's own weights; see `toolkit.models.timm_model.create_model`."
    config, head = timm.get_pretrained_cfg(arch), head_tensors(model)
    return {
        "source": config.hf_hub_id or config.url,
        "loaded": len(model.state_dict()) - len(head),
        "left_out": head,
        "license": config.license,
        "made_for": _made_for(model),
    }


def in_hub_cache(config: timm.models.PretrainedCfg) -> str | None:
    "Return the file of these weights in huggingface_hub's cache, None if it is not there."
    for name in (config.hf_hub_filename, "model.safetensors", "pytorch_model.bin"):
        found = config.hf_hub_id and name and huggingface_hub.try_to_load_from_cache(config.hf_hub_id, name)
        if isinstance(found, str):
            return found
    return None


def _reach_hub(arch: str, repository: str | None) -> None:
    "Raises ConnectionError at once if the hub is out of reach."
    if fault := hub_fault():
        raise ConnectionError(
            f"no way to {huggingface_hub.constants.ENDPOINT} for the ImageNet weights of {arch} ({fault}): give "
            f"--weights FILE (.pth, .safetensors) or none, or bring {repository} into this machine's hub cache "
            f"({huggingface_hub.constants.HF_HUB_CACHE})"
        )


# From a file


def load_body(model: nn.Module, path: Path) -> None:
    """Load every tensor of `model` but its classifier's from a state dict, and record that in `model.origin`.

    Raises FileNotFoundError, or ValueError if the file is no state dict or does not fit the body tensor by tensor.
    """
    state, head = read_weights(path), head_tensors(model)
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
            f"{_named('missing', missing)}{_named('of another shape', reshaped)}{_named('unknown', unknown)}"
            "give weights of the same architecture"
        )
    try:
        model.load_state_dict(body, strict=False)
    except RuntimeError as error:  # names and shapes fit, but a tensor is sparse or quantised
        raise ValueError(f"{path} does not fit {type(model).__name__}: {reason_of(error)}") from error
    model.origin = {"source": str(path), "loaded": len(body), "left_out": left_out, **_file_origin(path, model)}


def _reshaped(own: dict[str, Tensor], body: dict[str, Tensor]) -> list[str]:
    return sorted(name for name in own.keys() & body.keys() if own[name].shape != body[name].shape)


def _resampled(body: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Return `body` with position embeddings resampled to the model's image size, as timm does for its own weights.

    Return `body` itself if the model's timm module has no function for it, or if the function fails.
    """
    resample = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    own = model.state_dict()
    if any(body[name].ndim > 3 for name in _reshaped(own, body)):  # another patch size is another architecture
        return body
    try:
        resampled = resample(dict(body), model) if resample else body
    except Exception:  # it expects other shapes; the mismatch is then reported as it is
        return body
    return resampled if resampled.keys() == body.keys() else body


def _named(fault: str, names: list[str]) -> str:
    return f"{len(names)} {fault} ({', '.join(names[:3])}{' …' if len(names) > 3 else ''}); " if names else ""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the state dict in a .safetensors, .pth or .pt file, without unpickling objects.

    A dict under "state_dict", "model" or "model_state_dict" is taken out, and DataParallel's "module." is cut off.
    Raises FileNotFoundError, or ValueError for a file without a state dict of tensors.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"--weights {path}: no such file; it takes imagenet, none, or a .pth or .safetensors file"
        )
    try:
        safe = path.suffix.lower() == ".safetensors"
        state = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or malicious file makes them raise anything
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


def load_weights(model: nn.Module, path: Path) -> None:
    """Load every tensor of `model` from a run's .safetensors file.

    Raises FileNotFoundError if the run has not written it yet, ValueError if it does not fit.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: the run has not finished its first epoch")
    try:
        model.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{path} does not hold this model's weights ({str(error).strip().splitlines()[0]})") from error


def head_tensors(model: nn.Module) -> list[str]:
    "Names of the classifier's tensors in the state dict; empty for a network without one."
    named = model.pretrained_cfg["classifier"] or ()
    heads = (named,) if isinstance(named, str) else tuple(named)
    return [name for name in model.state_dict() if name.rpartition(".")[0] in heads]


def _made_for(model: nn.Module) -> dict[str, Any]:
    "The preparation of the photos that timm's weights of this architecture were trained on."
    config = model.pretrained_cfg
    names = ("mean", "std", "crop_pct", "interpolation")
    return {name: config[name] for name in names} | {"input_size": config["input_size"][-1]}


def _file_origin(path: Path, model: nn.Module) -> dict[str, Any]:
    """The licence of a weights file and the preparation of its photos, for `model.origin`.

    A file in the folder of a run has those of the run. For any other file they are assumed to be those of timm's own
    weights of the architecture, and "assumed" is True.
    """
    made_for = _made_for(model)
    if not (path.parent / "recipe.json").is_file():
        return {"license": None, "made_for": made_for, "assumed": True}
    recipe = read_recipe(path.parent / "recipe.json")
    own = {name: recipe["preprocess"][name] for name in ("mean", "std")}
    own |= {"input_size": recipe["preprocess"]["crop"], "interpolation": "bilinear"}
    own["crop_pct"] = recipe["preprocess"]["crop"] / recipe["preprocess"]["resize"]
    return {"license": (recipe.get("weights") or {}).get("license"), "made_for": made_for | own}

"""The networks that `--arch auto` may compare: those whose weights are at hand, or allowed to be fetched."""

from dataclasses import dataclass, field
from pathlib import Path

import huggingface_hub
import timm

from toolkit.models.catalogue import NETWORKS, Network, by_accuracy, forbids_commerce
from toolkit.models.pretrained import in_hub_cache

SUFFIXES = (".safetensors", ".pth", ".pt")


@dataclass(frozen=True)
class Candidate:
    "A network to compare."

    name: str  # timm's
    weights: str  # as --weights takes them: imagenet, or a file
    licence: str | None  # of the weights, as far as timm knows it by the name
    network: Network | None  # its row in the catalogue, if it has one
    cached: bool = True  # the weights are on this machine


@dataclass
class Choice:
    "The networks to compare, and the others with the reason why not."

    candidates: list[Candidate] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    missing: list[Network] = field(default_factory=list)  # allowed, but neither at hand nor to be fetched


def choice_of_networks(weights: str, any_license: bool, fetch: int) -> Choice:
    """Return the networks that may be compared.

    weights: `imagenet` (those of the catalogue in the hub's cache, and the `fetch` others with the highest published
    accuracy), or a folder of <timm's name>.safetensors, .pth or .pt files. Without `any_license` weights are left out
    whose licence forbids commercial use.
    Raises ValueError for weights that are neither.
    """
    if weights == "imagenet":
        return _of_catalogue(any_license, fetch)
    if Path(weights).is_dir():
        return _of_folder(Path(weights), any_license)
    raise ValueError(
        f"--arch auto --weights {weights}: it compares pretrained networks; give imagenet (those in the hub cache), or "
        "a folder of <timm's name>.safetensors or .pth files"
    )


def _of_catalogue(any_license: bool, fetch: int) -> Choice:
    found, others = Choice(), []
    for each in NETWORKS:
        cached = in_hub_cache(timm.get_pretrained_cfg(each.name)) is not None
        if forbids_commerce(each.licence) and not any_license:
            found.left_out |= {each.name: _forbidden(each.licence)} if cached else {}
        elif cached:
            found.candidates.append(Candidate(each.name, "imagenet", each.licence, each))
        else:
            others.append(each)
    others.sort(key=by_accuracy, reverse=True)
    found.candidates += [Candidate(each.name, "imagenet", each.licence, each, cached=False) for each in others[:fetch]]
    found.missing = others[fetch:]
    return found


def _of_folder(folder: Path, any_license: bool) -> Choice:
    found = Choice()
    for path in sorted(each for each in folder.iterdir() if each.suffix in SUFFIXES):
        if not timm.is_model(path.stem):
            found.left_out[path.name] = f"timm has no network {path.stem}"
            continue
        row = next((each for each in NETWORKS if path.stem in (each.name, each.name.partition(".")[0])), None)
        licence = getattr(timm.get_pretrained_cfg(row.name if row else path.stem), "license", None)
        if forbids_commerce(licence) and not any_license:
            found.left_out[path.stem] = _forbidden(licence)
        else:
            found.candidates.append(Candidate(path.stem, str(path), licence, row))
    return found


def _forbidden(licence: str | None) -> str:
    return f"its licence {licence} forbids commercial use; --any_license compares it too"


def hub_cache() -> str:
    "The folder of the hub's cache."
    return str(huggingface_hub.constants.HF_HUB_CACHE)

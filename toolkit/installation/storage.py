"""Checks of the free disk space and of the pretrained weights in the Hub's cache."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from toolkit.installation.finding import Finding

ARCH = "resnet152.tv2_in1k"  # the network of recipes.hw1, which starts from its ImageNet weights
ROOM = 10**9  # bytes free that a run should find: last.pt of resnet152 is 0.7 GB


def disk(folder: Path = Path()) -> Iterator[Finding]:
    "Report the free space of the disk that holds `folder`."
    free = shutil.disk_usage(folder).free
    text = f"{free / 1e9:.1f} GB free in {folder.resolve()}"
    yield Finding("ok", text) if free >= ROOM else Finding("note", f"{text}: a run may need 1 GB")


def hub() -> Iterator[Finding]:
    "Report whether the ImageNet weights of hw1's network are on this machine. If not, the first run fetches them."
    from huggingface_hub import constants, try_to_load_from_cache

    cache = constants.HF_HUB_CACHE
    if isinstance(try_to_load_from_cache(f"timm/{ARCH}", "model.safetensors"), str):
        yield Finding("ok", f"ImageNet weights of {ARCH} are in {cache}")
    else:
        text = f"ImageNet weights of {ARCH} are not in {cache}: the first run fetches them, or now"
        yield Finding("note", text, f"hf download timm/{ARCH} model.safetensors")

"""Photos in folders, and a cache folder of the user's own for each test."""

from pathlib import Path

import cv2
import numpy as np
import pytest


def encoded(seed, suffix=".jpg"):
    return cv2.imencode(suffix, np.random.default_rng(seed).integers(0, 255, (20, 24, 3), np.uint8))[1].tobytes()


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    "Two classes with six photos to train on and two to validate on each, and three photos to predict."
    root = tmp_path_factory.mktemp("folder") / "pets"
    names = [f"train/{label}/{label}{index}.jpg" for label in ("cat", "dog") for index in range(6)]
    names += [f"val/{label}/v{index}.png" for label in ("cat", "dog") for index in range(2)]
    names += [f"test/t{index}.jpg" for index in range(3)]
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encoded(seed, Path(name).suffix))
    return root


@pytest.fixture(autouse=True)
def cache(empty_data_cache):
    return empty_data_cache


@pytest.fixture
def unpacked_into(cache):
    "The folders of unpacked photos that are there, whole or half."
    return lambda: [path for path in cache.glob("*") if path.is_dir()] + [*cache.glob(".*.part")]

"""Images/s of our train and eval transforms over torchvision's on PIL, from a file to uint8 pixels, in one process.

    python tests/bench/transforms.py [--images 60] [--rounds 9]

Both sides start from the same 500 x 375 JPEGs (phone photos resized, quality 90) and take turns, round by round; then
from four of 12 megapixels (the same photos side by side, as sharp as a camera's). The ratio is the median over the
rounds, of processor time. "pixels" leaves ToTensor out on both sides: ours ends with a uint8 array, torchvision's with
a PIL image. "tensors" ends with what each training loop's collate function is given: ours a uint8 tensor, which the
model normalises, torchvision's the float tensor of ToTensor. How far apart the pixels are, in grey levels, is printed
last. The photos come from the shared material, else scikit-learn's two.
"""

import argparse
import functools
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torchvision import transforms as T
from torchvision.datasets.folder import default_loader

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from toolkit.data.augment import reseed  # noqa: E402
from toolkit.data.augmentation import train_transform  # noqa: E402
from toolkit.data.on_disk.photo_files import find_photos  # noqa: E402
from toolkit.data.photo import read_photo, read_reduced  # noqa: E402
from toolkit.data.preprocess import for_size, prepare, smallest_side  # noqa: E402

SHARED = ROOT.parent / "shared" / "data" / "grocery20" / "train"


def main(images: int, rounds: int) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    preprocess, compose, sample = for_size(224), train_transform(224), itertools.count()
    train = T.Compose([T.RandomResizedCrop(224), T.RandomHorizontalFlip(), T.RandomRotation(15)])
    valid, to_tensor = T.Compose([T.Resize(256), T.CenterCrop(224)]), T.ToTensor()

    def ours_train(path: str) -> np.ndarray:
        reseed(compose, 0, 1, next(sample))
        return compose(image=read_photo(path))["image"]

    def ours_valid(path: str) -> np.ndarray:
        photo, whole = read_reduced(path, smallest_side(preprocess))
        return prepare(photo, preprocess, whole)

    with tempfile.TemporaryDirectory() as folder:
        paths = write_jpegs(Path(folder), images)
        big = write_big_jpegs(Path(folder), paths)
        size = sum(Path(path).stat().st_size for path in big) / len(big) / 1e6
        print(f"{len(paths)} JPEGs of 500 x 375, {len(big)} of 4000 x 3000 ({size:.1f} MB), {rounds} rounds in turn")
        for name, files, ours, theirs in (
            ("train", paths, ours_train, train),
            ("eval", paths, ours_valid, valid),
            ("eval 12 MP", big, ours_valid, valid),
        ):
            compare(f"{name}, pixels", files, rounds, ours, chain(default_loader, theirs))
            compare(
                f"{name}, tensors",
                files,
                rounds,
                chain(ours, torch.from_numpy),
                chain(default_loader, theirs, to_tensor),
            )
        for name, files in (("eval", paths), ("eval 12 MP", big)):
            apart = [differences(ours_valid(path), valid(default_loader(path))) for path in files]
            mean, worst, largest = np.mean(apart, 0)[0], *np.max(apart, 0)
            print(f"{name:20}  apart by {mean:.2f}, worst photo {worst:.2f}, largest of a pixel {largest:.0f}")


def differences(ours: np.ndarray, theirs: Image.Image) -> tuple[float, int]:
    "The mean and the largest one, in grey levels."
    apart = np.abs(ours.astype(int) - np.asarray(theirs))
    return apart.mean(), apart.max()


def chain(*functions: Callable) -> Callable:
    return lambda value: functools.reduce(lambda result, function: function(result), functions, value)


def write_jpegs(folder: Path, images: int) -> list[str]:
    if SHARED.exists():
        photos = [Image.open(path).convert("RGB") for path in find_photos(SHARED)[:: max(930 // images, 1)][:images]]
    else:
        photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    paths = [str(folder / f"{index}.jpg") for index in range(len(photos))]
    for photo, path in zip(photos, paths, strict=True):
        photo.resize((500, 375), Image.BICUBIC).save(path, quality=90)
    return paths


def write_big_jpegs(folder: Path, paths: list[str]) -> list[str]:
    "Four photos of 8 x 8 of the small ones each, quality 90."
    big = [str(folder / f"big{index}.jpg") for index in range(4)]
    for index, path in enumerate(big):
        photo = Image.new("RGB", (4000, 3000))
        for place in range(64):
            part = Image.open(paths[(16 * index + place) % len(paths)])
            photo.paste(part, (place % 8 * 500, place // 8 * 375))
        photo.save(path, quality=90)
    return big


def compare(name: str, paths: list[str], rounds: int, ours: Callable, theirs: Callable) -> None:
    ours(paths[0]), theirs(paths[0])
    pairs = [(images_per_second(ours, paths), images_per_second(theirs, paths)) for _ in range(rounds)]
    ratios = sorted(our / their for our, their in pairs)
    our, their = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(
        f"{name:20}  ours {our:6.1f} images/s  torchvision+PIL {their:6.1f} images/s  "
        f"ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    )


def images_per_second(function: Callable, paths: list[str]) -> float:
    start = time.process_time()
    for path in paths:
        function(path)
    return len(paths) / (time.process_time() - start)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=9)
    main(**vars(parser.parse_args()))

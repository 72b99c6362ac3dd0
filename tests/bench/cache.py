"""What --cache saves, on photos of 500 x 375 pixels at 96 px. Ratios above 1: the cache wins.

    python tests/bench/cache.py data      # processor time per image of hw1's batches, without over with; bar: 2.5
    python tests/bench/cache.py epoch     # an epoch of hw1 with --cache against the plain fp32 loop; bar: 2

data: from a file, or from the cache, to a normalised batch, in this process, augmented as hw1 does. epoch: resnet10t,
2 workers, from files to weights and their validation, everything else as hw1 has it by default; the plain loop is
torchvision on PIL, ImageFolder, DataLoader, AdamW, fp32. The two sides take turns, round by round; the figure is the
median of the rounds' ratios. The photos are phone photos from the shared material, else scikit-learn's two, resized,
quality 90; the cache is filled, and the files were read, before the clock starts.
"""

import itertools
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import cv2
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from training import BS, WORKERS, Apart, in_turn, our_epoch, their_epoch  # noqa: E402

from toolkit.data.augment import homework  # noqa: E402
from toolkit.data.dataloaders import make_dataloaders  # noqa: E402
from toolkit.data.dataset import find_data  # noqa: E402
from toolkit.data.on_disk.photo_files import find_photos  # noqa: E402
from toolkit.data.preprocess import resize_center_crop  # noqa: E402
from toolkit.options import Options  # noqa: E402

SHARED = ROOT.parent / "shared" / "data" / "grocery20"
ARCH, SIZE, ROUNDS = "resnet10t", 96, 5


def write_photos(root: Path) -> Path:
    "About 930 photos to train and 104 to validate on, in 20 classes."
    if SHARED.exists():
        found = [path.relative_to(SHARED) for split in ("train", "val") for path in find_photos(SHARED / split)]
        photos = ((path, Image.open(SHARED / path).convert("RGB")) for path in found)
    else:
        two = itertools.cycle(Image.fromarray(photo) for photo in load_sample_images().images)
        names = [(split, c, n) for split, each in (("train", 46), ("val", 5)) for c in range(20) for n in range(each)]
        photos = ((Path(split, str(label), f"{number}.jpg"), next(two)) for split, label, number in names)
    for path, photo in photos:
        (root / path.parent).mkdir(parents=True, exist_ok=True)
        photo.resize((500, 375), Image.BICUBIC).save(root / path.with_suffix(".jpg"), quality=90)
    return root


def data(photos: Path, cache: Path) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    found, options = find_data(photos), Options(photos, bs=BS, image_size=SIZE, workers=0, device="cpu")
    plain, cached = (
        make_dataloaders(replace(options, cache=folder), found, homework(), resize_center_crop(SIZE), normalize={})
        for folder in (None, cache)
    )
    for split in ("train", "valid"):
        times = [(per_image(getattr(plain, split)), per_image(getattr(cached, split))) for _ in range(ROUNDS + 1)][1:]
        files, kept = (statistics.median(column) for column in zip(*times, strict=True))
        ratios = [one / other for one, other in times]
        print(f"data, {split}: {files:.0f} us an image from files, {kept:.0f} us from the cache, ", end="")
        print(f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})", flush=True)


def per_image(loader) -> float:
    "Microseconds of processor time."
    start = time.process_time()
    images = sum(len(labels) for _, labels in loader)
    return (time.process_time() - start) / images * 1e6


def epoch(photos: Path, cache: Path) -> None:
    ours, theirs = our_epoch(photos, ARCH, SIZE, cache=cache), Apart(their_epoch, photos, ARCH, SIZE)
    print(f"epoch of hw1 --cache, {ARCH} at {SIZE} px, {WORKERS} workers: ", end="", flush=True)
    in_turn(ours, theirs, ROUNDS)


if __name__ == "__main__":
    if "--help" in sys.argv:
        sys.exit(print(__doc__))
    with tempfile.TemporaryDirectory() as folder:
        photos = write_photos(Path(folder) / "photos")
        for name in sys.argv[1:] or ["data", "epoch"]:
            {"data": data, "epoch": epoch}[name](photos, Path(folder) / "cache")

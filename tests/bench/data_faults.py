"""Wrong labels and copies planted into a data set: how many does `toolkit.check --features` find, at which precision?

    python tests/bench/data_faults.py ../shared/data/grocery20 --weights ../shared/weights/mobilenetv2_100.pth

A copy of the data set gets 5 % wrong labels (training photos moved to another class, drawn evenly) and 5 % copies of
training photos (a third encoded again as JPEG of quality 60 to 80, a third also cropped to 0.9 of each side, a third
also resized to 0.5 to 0.8), half of them beside the original and half in the validation set. cleanlab is compared on
the same probabilities if it is importable. Near-duplicates that were in the data set before count as neither.
"""

import argparse
import random
import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from torch import nn

from toolkit.data.dataset import DataSet, find_data
from toolkit.data.preprocess import for_size
from toolkit.features.duplicates import groups, near_duplicates
from toolkit.features.extract import features_and_thumbnails
from toolkit.features.find_doubts import Labelled, find_doubts
from toolkit.features.folds import grouped_folds
from toolkit.features.mislabelled import out_of_fold, suspected_labels
from toolkit.models.timm_model import create_model, normalization_of

SHARE = 0.05


def planted(source: Path, root: Path, seed: int) -> tuple[set[str], dict[str, str]]:
    "Copy `source` to `root` with faults. Returns the mislabelled files, and the original of each copy, by its file."
    shutil.copytree(source, root, ignore=shutil.ignore_patterns("test", "test_labels.csv"))
    draw, data = random.Random(seed), find_data(root)
    photos, wrong = list(data.train), set()
    chosen = draw.sample(photos, round(SHARE * len(photos)) * 2)
    half = len(chosen) // 2
    for photo in chosen[:half]:
        label = draw.choice([name for name in data.classes if name != data.train[photo]])
        moved = photo.rename(root / "train" / label / f"moved_{photo.name}")
        wrong.add(data.relative(moved))
    copies = {}
    for number, photo in enumerate(chosen[half:]):
        folder = photo.parent if number % 2 else root / "val" / data.train[photo]
        copy = folder / f"copy_{photo.stem}.jpg"
        changed(Image.open(photo), ("encoded", "cropped", "resized")[number % 3], draw).save(
            copy, quality=draw.randint(60, 80)
        )
        copies[data.relative(copy)] = data.relative(photo)
    return wrong, copies


def changed(image: Image.Image, how: str, draw: random.Random) -> Image.Image:
    image = ImageOps.exif_transpose(image).convert("RGB")
    width, height = image.size
    if how == "cropped":
        wide, high = round(0.9 * width), round(0.9 * height)
        left, top = draw.randint(0, width - wide), draw.randint(0, height - high)
        return image.crop((left, top, left + wide, top + high))
    if how == "resized":
        share = draw.uniform(0.5, 0.8)
        return image.resize((round(share * width), round(share * height)))
    return image


def seen(data: DataSet, model: nn.Module, size: int, known: dict) -> tuple[list[Labelled], np.ndarray, np.ndarray]:
    "Photos, features and thumbnails. known: those by a file's content; only files of other content are computed."
    rows = [("train", *pair) for pair in data.train.items()] + [("valid", *pair) for pair in data.valid.items()]
    photos = [Labelled(data.relative(path), split, label) for split, path, label in rows]
    preprocess = for_size(size, **normalization_of(model))
    contents = {path: path.read_bytes() for _, path, _ in rows}
    if new := [path for path, content in contents.items() if content not in known]:
        found = features_and_thumbnails(model, new, preprocess)
        known |= {contents[path]: pair for path, *pair in zip(new, *found, strict=True)}
    pairs = [known[content] for content in contents.values()]
    return photos, np.stack([pair[0] for pair in pairs]), np.stack([pair[1] for pair in pairs])


def score(found: set, true: set) -> str:
    right = len(found & true)
    precision, recall = right / max(1, len(found)), right / max(1, len(true))
    f1 = 2 * precision * recall / max(1e-9, precision + recall)
    return f"{right} of {len(true)} found, precision {precision:.2f}, recall {recall:.2f}, F1 {f1:.2f}"


def compare(photos: list[Labelled], features: np.ndarray, thumbnails: np.ndarray, wrong: set[str], seed: int) -> None:
    "Suspected labels by ours and by cleanlab, on the same probabilities."
    labels = np.unique([photo.label for photo in photos], return_inverse=True)[1]
    group = groups(near_duplicates(features, thumbnails), len(photos))
    probabilities = out_of_fold(features, labels, grouped_folds(labels, group, 5, seed))
    files = [photo.file for photo in photos]
    ours = suspected_labels(probabilities, labels).photo
    print(f"  wrong labels        {score({files[i] for i in ours}, wrong)}")
    try:
        from cleanlab.filter import find_label_issues
    except ImportError:
        print("  cleanlab is not installed: nothing to compare with")
        return
    for how in ("prune_by_noise_rate", "confident_learning", "both"):
        theirs = np.flatnonzero(find_label_issues(labels, probabilities, filter_by=how))
        print(f"  cleanlab, {how:<20} {score({files[i] for i in theirs}, wrong)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--arch", default="mobilenetv2_100")
    parser.add_argument("--weights", default="imagenet")
    parser.add_argument("--image_size", type=int, default=128)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    original = find_data(options.data)
    model = create_model(options.arch, len(original.classes), options.weights, image_size=options.image_size)
    known: dict = {}
    photos, features, thumbnails = seen(original, model, options.image_size, known)
    before = [doubt.finding for doubt in find_doubts(photos, features, thumbnails)]
    print(f"as it is: { {kind: before.count(kind) for kind in dict.fromkeys(before)} }")
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            wrong, copies = planted(options.data, Path(folder) / "data", seed)
            data = find_data(Path(folder) / "data")
            photos, features, thumbnails = seen(data, model, options.image_size, known)
        print(f"seed {seed}: {len(wrong)} wrong labels and {len(copies)} copies among {len(photos)} photos")
        doubts = find_doubts(photos, features, thumbnails, seed)
        pairs = {frozenset((doubt.file, doubt.other)) for doubt in doubts if doubt.other}
        true = {frozenset(pair) for pair in copies.items()}
        new = {pair for pair in pairs if any(file in copies for file in pair)}
        print(f"  copies              {score(new, true)}; {len(pairs - new)} pairs that were there before")
        compare(photos, features, thumbnails, wrong, seed)


if __name__ == "__main__":
    main()

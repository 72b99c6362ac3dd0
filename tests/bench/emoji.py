"""A second set of pictures for `peers.py`: emoji by four makers, the class being Unicode's group of things.

    npm pack emoji-datasource-apple emoji-datasource-google emoji-datasource-twitter emoji-datasource-facebook
    for package in *.tgz; do tar xzf $package; done
    python tests/bench/emoji.py package emoji

Writes train/, val/, test/ and test_labels.csv: half of the emoji of each class to train, a quarter each to validate and
to test. All makers' pictures of an emoji are in one part, 64 pixels wide, on white.
"""

import csv
import json
import sys
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np

MAKERS = ["apple", "google", "twitter", "facebook"]
KINDS = "Animals & Nature,Food & Drink,Objects,Travel & Places,Activities,Smileys & Emotion".split(",")
FEWEST = 18  # emoji in a class


def make(package: Path, folder: Path) -> None:
    classes, order, labels = defaultdict(list), np.random.default_rng(0), []
    for emoji in json.loads((package / "emoji.json").read_text()):
        if emoji["category"] in KINDS:
            classes[emoji["subcategory"].replace(" & ", "-")].append(emoji["image"])
    for name, images in sorted(classes.items()):
        if len(images) < FEWEST:
            continue
        for place, index in enumerate(order.permutation(len(images))):
            part = ["test", "val", "train", "train"][place % 4]
            for maker in MAKERS:
                source = package / "img" / maker / "64" / images[index]
                target = folder / part / ("" if part == "test" else name) / f"{source.stem}-{maker}.png"
                if source.exists():
                    write_on_white(source, target)
                    labels += [[target.name, name]] if part == "test" else []
    with (folder / "test_labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image_name", "label"], *labels])


def write_on_white(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    image = cv2.imread(str(source), cv2.IMREAD_UNCHANGED)
    colours, opaque = image[..., :3], image[..., 3:] / 255
    cv2.imwrite(str(target), np.rint(colours * opaque + 255 * (1 - opaque)).astype(np.uint8))


if __name__ == "__main__":
    if "--help" in sys.argv or len(sys.argv) < 3:
        sys.exit(print(__doc__))
    make(Path(sys.argv[1]), Path(sys.argv[2]))

"""scikit-learn's 1,797 handwritten digits as photos on disk, in folders train/, val/ and test/."""

import csv
import shutil
from pathlib import Path

import cv2
import numpy as np

from toolkit import ranks

ENLARGED = 4  # each pixel of a digit is 4 x 4 pixels of its photo


@ranks.first_here()
def write_digits(folder: Path) -> Path:
    """Write train/<digit>/*.png, val/<digit>/*.png, test/*.png and test_labels.csv into `folder`; return `folder`.

    The photos have 48 x 48 pixels, white on black: 70 % to train, 15 % each to validate and to test, always in the same
    split. Digits that are there already are kept. Raises FileExistsError if `folder` holds something else.
    """
    if (folder / "test_labels.csv").is_file():
        return folder
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} holds something that is not the digits: give an empty or a new folder")
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    numbers = np.arange(len(digits.target))
    train, rest = train_test_split(numbers, test_size=0.3, stratify=digits.target, random_state=0)
    valid, test = train_test_split(rest, test_size=0.5, stratify=digits.target[rest], random_state=0)
    beside = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    for name, part in (("train", train), ("val", valid), ("test", test)):
        for number in part:
            class_folder = beside / name / ("" if name == "test" else str(digits.target[number]))
            class_folder.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(class_folder / f"{number}.png"), _photo(digits.images[number]))
    with (beside / "test_labels.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["image_name", "label"])
        writer.writerows([number, digits.target[number]] for number in sorted(test))
    if folder.exists():
        folder.rmdir()
    beside.rename(folder)
    return folder


def _photo(image: np.ndarray) -> np.ndarray:
    "The photo, uint8 [48, 48], of a digit, float [8, 8] from 0 to 16. Its margin is for the centre crop to cut off."
    framed = np.pad(image / 16 * 255, 2).round().astype(np.uint8)
    return framed.repeat(ENLARGED, axis=0).repeat(ENLARGED, axis=1)

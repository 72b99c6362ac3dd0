"""Layouts of labelled photos on disk, in folders or a CSV -> labels by path; the split into training and validation."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from toolkit.data.on_disk.labels_csv import SPLITS, read_labels
from toolkit.data.on_disk.photo_files import find_photos
from toolkit.errors import first_few

VALID_FRACTION = 0.2  # of each class, if the data does not come split


def labelled_photos(data: str | Path) -> dict[Path, str]:
    """The photos at `data` with their labels, in natural order: the validation part if `data` comes split, else all.

    Raises FileNotFoundError for what is not there, ValueError if no photo in it has a label.
    """
    root = Path(data)
    if root.is_file():
        labels = read_labels(root)
    else:
        labels = held_out_photos(root) if is_split(root) or _is_part(root) else class_folders(root)
    if not labels:
        raise ValueError(f"no labelled photos in {root}: it takes <class>/*, val/<class>/*, or a CSV with path,label")
    return labels


def is_split(root: Path) -> bool:
    """True if the folder `root` has a train/ with classes in it.

    A train/ beside folders of other names, with photos in itself, is a class.
    """
    train, names = root / "train", {path.name for path in root.iterdir() if path.is_dir()} if root.is_dir() else set()
    if not names - set(SPLITS) or {"val", "valid"} & names:
        return "train" in names
    return "train" in names and not any(path.parent == train for path in find_photos(train))


def _is_part(folder: Path) -> bool:
    "True if all folders in `folder` are named like parts of a data set."
    names = {path.name for path in folder.iterdir() if path.is_dir()} if folder.is_dir() else set()
    return bool(names) and names <= set(SPLITS)


def class_folders(folder: Path) -> dict[Path, str]:
    """Every photo below folder/<class>/ with its class, in natural order.

    Raises ValueError for photos outside the class folders and for a class folder without photos.
    """
    photos = find_photos(folder)
    loose = [path.name for path in photos if path.parent == folder]
    if loose:
        raise ValueError(f"{len(loose)} photos lie in {folder} itself ({loose[0]} …): move them into class folders")
    labels = {path: path.relative_to(folder).parts[0] for path in photos}
    names = {path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")}
    empty = sorted(names - set(labels.values()))
    if empty and labels:
        folders = first_few([str(folder / name) for name in empty])
        raise ValueError(f"no photos in {folders}: remove empty class folders, or fill them")
    return labels


def held_out_photos(root: Path) -> dict[Path, str]:
    "The photos in val/ or valid/, with their classes, of a folder with train/. Raises ValueError for both or neither."
    held_out = [root / name for name in ("val", "valid") if (root / name).is_dir()]
    if len(held_out) != 1:
        trouble = "both val/ and valid/: remove one" if held_out else "train/ but neither val/ nor valid/: add one"
        raise ValueError(f"{root} has {trouble}, or give --data {root / 'train'} to have a fifth of it held out")
    return class_folders(held_out[0])


def stratified_split(
    labels: dict[Path, str], seed: int, allow_single: bool = False
) -> tuple[dict[Path, str], dict[Path, str]]:
    """Training and validation part of `labels`. Validation is a fifth of each class, rounded, drawn by `seed` alone.

    allow_single: put a class of one photo into the training part, instead of raising ValueError.
    """
    from sklearn.model_selection import StratifiedShuffleSplit  # a second to import

    single = [name for name, count in Counter(labels.values()).items() if count < 2]
    if single and not allow_single:
        raise ValueError(f"class {single[0]} has 1 photo: one to train on and one to validate on is the least")
    singles = {photo: name for photo, name in labels.items() if name in single}
    photos = [photo for photo in labels if photo not in singles]
    names = [labels[photo] for photo in photos]
    if not photos:
        return singles, {}
    held_out = max(round(len(photos) * VALID_FRACTION), len(set(names)))
    splitter = StratifiedShuffleSplit(n_splits=1, test_size=held_out, random_state=seed)
    parts = next(splitter.split(photos, names))
    train, valid = ({photos[i]: names[i] for i in sorted(part)} for part in parts)
    return train | singles, valid


def check_outside_data(data: str | Path, outputs: Mapping[str, str | Path | None]) -> None:
    """Raise ValueError if an output would be written among the photos of `data`: pictures and folders there would be
    photos and classes the next time.

    outputs: paths to write to, or None, by the option that names them.
    """
    searched = _searched_folders(Path(data))
    for option, output in outputs.items():
        for folder in searched if output is not None else []:
            if _is_searched(Path(output).resolve(), folder.resolve()):
                raise ValueError(
                    f"{option} {output} lies in {folder}, where photos are looked for, and what is written there would "
                    f"be among them: give {option} a folder outside of it"
                )


def _searched_folders(root: Path) -> list[Path]:
    "The folders below which photos are searched for, whether they exist or not, and those linked into them."
    if not root.is_dir():
        return []
    folders = [root / name for name in SPLITS] if is_split(root) else [root]
    inside = [path for folder in folders if folder.is_dir() for path in folder.iterdir()]
    return folders + [path for path in inside if path.is_symlink() and path.is_dir() and path.name[0] != "."]


def _is_searched(path: Path, folder: Path) -> bool:
    "True if a search for photos in `folder` finds those at `path`. It skips names that start with a dot."
    below = path.is_relative_to(folder)
    return below and not any(name.startswith(".") for name in path.relative_to(folder).parts)

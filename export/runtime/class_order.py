"""The classes of several model files, compared by name."""

from pathlib import Path

from toolkit.errors import first_few


def class_order(model: Path, classes: list[str], first: Path, wanted: list[str]) -> list[int]:
    """The index in `classes`, those of `model`, of each class in `wanted`, those of the file `first`.

    Raises ValueError, naming some of the classes that one of the files lacks.
    """
    index = {name: number for number, name in enumerate(classes)}
    known = set(wanted)
    missing, new = [name for name in wanted if name not in index], [name for name in classes if name not in known]
    if missing or new:
        lacks = [f"{model} lacks {first_few(missing)}"] if missing else []
        lacks += [f"{first} lacks {first_few(new)}"] if new else []
        raise ValueError(f"only files of the same classes can be averaged: {'; '.join(lacks)}")
    return [index[name] for name in wanted]

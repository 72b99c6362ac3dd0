"""Read a leaderboard's sample_submission.csv: its ids, their order and its columns."""

from collections import Counter
from pathlib import Path, PurePosixPath

from export.predictions.formats import read_csv
from export.predictions.inputs import Named
from toolkit.errors import first_few


def read_sample(path: Path) -> tuple[list[str], list[str]]:
    """Return its header, and the ids of its first column.

    Raises ValueError if it is no CSV in UTF-8 with commas, has no ids, or has an id twice.
    """
    if b"\0" in path.read_bytes():
        raise ValueError(f"--sample {path} is not UTF-8 text, but UTF-16 or no text: save it as CSV in UTF-8")
    header, *rows = read_csv(path) or [[]]
    if len(header) == 1 and (found := [mark for mark in ";\t|" if mark in header[0]]):
        raise ValueError(f"--sample {path} has {found[0]!r} between its columns: save it with commas")
    ids = [row[0] for row in rows if row]
    if not ids:
        raise ValueError(f"--sample {path} has no rows: give a CSV with a header and an id in each row's first column")
    if twice := [each for each, count in Counter(ids).items() if count > 1]:
        raise ValueError(f"--sample {path} has more than one row for {first_few(twice)}")
    return header, ids


def in_order(photos: Named, ids: list[str], path: Path) -> Named:
    """Return the photos under the sample's ids, in its order. An id is an image_name, with or without a suffix.

    Raises ValueError, naming some, for ids without a photo and photos without an id.
    """
    files = {_with_suffix(name, file): file for name, file in photos}
    known = dict(photos) | files
    missing = [each for each in ids if each not in known]
    wanted = {known[each] for each in ids if each in known}
    extra = [str(file) for _, file in photos if file not in wanted]
    faults = [f"no image for {len(missing)} of its ids: {first_few(missing)}"] if missing else []
    faults += [f"no id for {len(extra)} of the images: {first_few(extra)}"] if extra else []
    if faults:
        raise ValueError(f"--sample {path}: {'; '.join(faults)}")
    return [(each, known[each]) for each in ids]


def _with_suffix(name: str, file: Path) -> str:
    return name if PurePosixPath(name).name == file.name else name + file.suffix

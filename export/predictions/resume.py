"""Continue an unfinished prediction run, or refuse to and name what differs."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from export.predictions import formats, journal
from export.predictions.inputs import Named
from export.runtime.progress import print_line
from toolkit.errors import first_few
from toolkit.files import write_atomic

START_ANEW = "leave out --resume to start anew"


def continue_run(partial: Path, settings: dict, photos: Named) -> tuple[Named, int]:
    "The photos that the journal `partial` records, and how many have their row. Raises ValueError naming differences."
    before, recorded = journal.read_head(partial)
    photos = same_photos(recorded, photos, partial)
    check_same_settings(before, settings, partial)
    check_unchanged(photos, partial)
    return photos, journal.cut(partial, settings["--bs"])


def start_run(partial: Path, settings: dict, photos: Named) -> tuple[Named, int]:
    "Write a journal without rows; return the photos, and 0 for the number of rows."
    if partial.exists():
        print_line(f"{partial}, of a run that was not finished, starts anew: export.predict --resume would continue it")
    journal.begin(partial, settings, photos)
    return photos, 0


@contextmanager
def resumable(partial: Path) -> Iterator[None]:
    "Add to an error or interrupt that ends the block how to continue the run."
    how = f"finished rows are in {partial}: the same command with --resume continues from there"
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(f"{str(interrupt) or 'interrupted'}; {how}") from None
    except (OSError, ValueError) as error:
        error.add_note(how)
        raise


def record(out: Path, settings: dict, photos: Named) -> None:
    "Write the settings of the finished table `out` into a hidden file beside it; its journal can go then."
    made = {**settings, "images": _digest_of(photos), "table": _digest(out)}
    write_atomic(record_of(out), json.dumps(made) + "\n")


def record_of(out: Path) -> Path:
    "The hidden file that records the settings of the finished table `out`."
    return out.with_name(f".{out.name}.asked")


def recorded_bs(out: Path) -> int | str:
    "The batch size of the run to `out`, finished or not; auto if there is no trace of one."
    for path in (journal.partial_of(out), record_of(out)):
        if path.exists():
            return journal.read_bs(path)
    return "auto"


def finished(out: Path, kind: str, settings: dict, photos: Named) -> formats.Unread:
    "The photos that a finished run could not read. Raises ValueError if `out` has other settings or other images."
    made = _recorded(out)
    check_same_settings(made, settings, out)
    names = formats.read_names(out, kind)
    if new := set(dict(photos)) - set(names):
        raise ValueError(f"{out} is finished, but of other images: it lacks {first_few(sorted(new))}; {START_ANEW}")
    if made["images"] != _digest_of(photos):
        raise ValueError(f"{out} is finished, but of other images, in part or all, under these names; {START_ANEW}")
    print(f"{out} is already finished, {len(names)} images: nothing is left to do ({START_ANEW})")
    return formats.read_errors(out)


def _recorded(out: Path) -> dict:
    "The settings of the finished table `out`. Raises ValueError if they are not known."
    try:
        made = json.loads(record_of(out).read_bytes())
        whole = made["table"] == _digest(out) and "images" in made
    except (FileNotFoundError, ValueError, TypeError, LookupError):
        whole = False
    if not whole:
        raise ValueError(
            f"{out} exists, but {record_of(out)} does not say how it was made, or it was changed since: {START_ANEW}"
        )
    return made


def _digest(path: Path) -> str:
    "SHA-256 of a file's content."
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_of(photos: Named) -> str:
    "SHA-256 of all names and absolute paths."
    lines = "".join(f"{name}\0{os.path.abspath(path)}\n" for name, path in photos)
    return hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()


def same_photos(recorded: Named, found: Named, partial: Path) -> Named:
    """The photos that the journal recorded, for the run that continues it.

    A photo that has disappeared since keeps its row, as it does if it disappears during a run.
    Raises ValueError, naming some, for photos that the journal does not have, and for other names.
    """
    if recorded == found:
        return recorded
    known, here = {path for _, path in recorded}, {path for _, path in found}
    if new := [str(path) for _, path in found if path not in known]:
        raise ValueError(f"{partial} is of other images: it lacks {first_few(new)}; {START_ANEW}")
    if known == here:
        renamed = next(f"{old[0]}, now {new[0]}" for old, new in zip(recorded, found, strict=True) if old != new)
        raise ValueError(f"{partial} has other names for its images ({renamed}); {START_ANEW}")
    return recorded


def check_same_settings(before: dict, now: dict, partial: Path | str) -> None:
    "Raises ValueError naming each setting that the rows depend on and that differs."
    differing = [name for name in now if before.get(name) != now[name]]
    if differing:
        changes = ", ".join(f"{name} {_short(before.get(name))}, now {_short(now[name])}" for name in differing)
        raise ValueError(f"{partial} was started with {changes}: give the same, or {START_ANEW}")


def check_unchanged(photos: Named, partial: Path) -> None:
    "Raises ValueError, naming some, for photos that have their row and whose file has another size now."
    rows = zip(photos, journal.rows(partial), strict=False)
    changed = [str(path) for (_, path), row in rows if row.reason is None and _changed(path, row.size)]
    if changed:
        raise ValueError(
            f"{partial} is of other images: these files have changed since: {first_few(changed)}; {START_ANEW}"
        )


def file_size(path: Path) -> int | None:
    "Size in bytes; None if there is no such file."
    try:
        return os.stat(path).st_size
    except OSError:
        return None


def _changed(path: Path, size: int | None) -> bool:
    "True if the file has another size than `size`; False if one of the two is not known."
    now = file_size(path)
    return None not in (now, size) and now != size


def _short(value: object) -> str:
    "The value as text; of a checksum the first 12 digits. A path stays whole."
    text = str(value) or "(empty)"
    return text if len(text) <= 40 or os.sep in text else text[:12]

"What `--resume` goes on with, and what it refuses to, naming what differs."

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from export.predictions import formats, journal
from export.predictions.inputs import Named
from export.runtime.progress import tell
from toolkit.errors import first_few
from toolkit.files import write_atomic

START_ANEW = "leave out --resume to start anew"


def gone_on_with(partial: Path, asked: dict, photos: Named) -> tuple[Named, int]:
    "The photos of the run that `partial` is of, if it was asked for the same, and how many rows there are."
    before, recorded = journal.read_head(partial)
    photos = same_photos(recorded, photos, partial)
    check_asked(before, asked, partial)
    check_unchanged(photos, partial)
    return photos, journal.cut(partial, asked["--bs"])


def begun(partial: Path, asked: dict, photos: Named) -> tuple[Named, int]:
    "The photos of a new run, which has no rows."
    if partial.exists():
        tell(f"{partial}, of a run that was not finished, is begun anew: export.predict --resume would go on with it")
    journal.begin(partial, asked, photos)
    return photos, 0


@contextmanager
def resumable(partial: Path) -> Iterator[None]:
    "Whatever ends the block before its time tells how to go on."
    goes_on = f"what is done is in {partial}: the same command with --resume goes on from there"
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(f"{str(interrupt) or 'interrupted'}; {goes_on}") from None
    except (OSError, ValueError) as error:
        error.add_note(goes_on)
        raise


def record(out: Path, asked: dict, photos: Named) -> None:
    "Keeps, in a hidden file beside the finished table `out`, what it was made by; its journal can go then."
    made = {**asked, "images": _digest_of(photos), "table": _digest(out)}
    write_atomic(record_of(out), json.dumps(made) + "\n")


def record_of(out: Path) -> Path:
    return out.with_name(f".{out.name}.asked")


def recorded_bs(out: Path) -> int | str:
    "How many images a batch of the run to `out` had, finished or not; auto where nothing is left of one."
    for path in (journal.partial_of(out), record_of(out)):
        if path.exists():
            return journal.read_bs(path)
    return "auto"


def finished(out: Path, kind: str, asked: dict, photos: Named) -> formats.Unread:
    "The photos that a finished run could not read. Raises ValueError where `out` can't be what was asked for."
    made = _made(out)
    check_asked(made, asked, out)
    names = formats.read_names(out, kind)
    if new := set(dict(photos)) - set(names):
        raise ValueError(f"{out} is finished, but of other images: it lacks {first_few(sorted(new))}; {START_ANEW}")
    if made["images"] != _digest_of(photos):
        raise ValueError(f"{out} is finished, but of other images, in part or all, under these names; {START_ANEW}")
    print(f"{out} is finished already, {len(names)} images: nothing is left to do ({START_ANEW})")
    return formats.read_errors(out)


def _made(out: Path) -> dict:
    "What the finished table `out` was made by. Raises ValueError where that is not known."
    try:
        made = json.loads(record_of(out).read_bytes())
        whole = made["table"] == _digest(out) and "images" in made
    except (FileNotFoundError, ValueError, TypeError, LookupError):
        whole = False
    if not whole:
        raise ValueError(
            f"{out} is there, but {record_of(out)} does not say what it was made by, or it was changed since: "
            f"{START_ANEW}"
        )
    return made


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_of(photos: Named) -> str:
    lines = "".join(f"{name}\0{os.path.abspath(path)}\n" for name, path in photos)
    return hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()


def same_photos(recorded: Named, found: Named, partial: Path) -> Named:
    """The photos of the run that is gone on with: those it recorded.

    One that is gone since keeps its row, as it does where it goes while a run is under way.
    Raises ValueError, naming some, for photos that the run did not have, and for other names.
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


def check_asked(before: dict, now: dict, partial: Path) -> None:
    "Raises ValueError naming each option that the rows depend on and that differs."
    differing = [name for name in now if before.get(name) != now[name]]
    if differing:
        said = ", ".join(f"{name} {_short(before.get(name))}, now {_short(now[name])}" for name in differing)
        raise ValueError(f"{partial} was begun with {said}: ask for the same, or {START_ANEW}")


def check_unchanged(photos: Named, partial: Path) -> None:
    "Raises ValueError, naming some, for photos whose row is there already and whose file has another size since."
    rows = zip(photos, journal.rows(partial), strict=False)
    changed = [str(path) for (_, path), row in rows if row.reason is None and _changed(path, row.size)]
    if changed:
        raise ValueError(
            f"{partial} is of other images: since then the file changed of {first_few(changed)}; {START_ANEW}"
        )


def file_size(path: Path) -> int | None:
    "In bytes; None where there is no such file."
    try:
        return os.stat(path).st_size
    except OSError:
        return None


def _changed(path: Path, size: int | None) -> bool:
    now = file_size(path)
    return None not in (now, size) and now != size


def _short(value: object) -> str:
    "A checksum by its beginning."
    text = str(value) or "(empty)"
    return text if len(text) <= 40 else text[:12]

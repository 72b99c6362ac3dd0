"What `--resume` goes on with, and what it refuses to, naming what differs."

import os
from pathlib import Path

from export import journal
from export.photos import Named

START_ANEW = "leave out --resume to start anew"


def same_photos(recorded: Named, found: Named, partial: Path) -> Named:
    """The photos of the run that is gone on with: those it recorded.

    One that is gone since keeps its row, as it does where it goes while a run is under way.
    Raises ValueError, naming some, for photos that the run did not have, and for other names.
    """
    if recorded == found:
        return recorded
    known, here = {path for _, path in recorded}, {path for _, path in found}
    if new := [str(path) for _, path in found if path not in known]:
        raise ValueError(f"{partial} is of other images: it lacks {some(new)}; {START_ANEW}")
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
        raise ValueError(f"{partial} is of other images: since then the file changed of {some(changed)}; {START_ANEW}")


def file_size(path: Path) -> int | None:
    "In bytes; None where there is no such file."
    try:
        return os.stat(path).st_size
    except OSError:
        return None


def some(names: list[str]) -> str:
    "Up to three names, and how many more there are."
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _changed(path: Path, size: int | None) -> bool:
    now = file_size(path)
    return None not in (now, size) and now != size


def _short(value: object) -> str:
    "A checksum by its beginning."
    return str(value)[:12]

"""A folder of predictions in shards, part-00000.parquet and on, that any number of processes fill at once.

    _run.json      what was asked for, there first
    part-*.parquet each is written at once, by whoever, as often as it takes: its content is the same
    _SUCCESS       there last: every image has its one row

A shard's footer holds the run it belongs to and the reasons why photos of it can't be read, so that a folder tells by
itself what is missing. Readers of Parquet folders (pyarrow, pandas, Spark, DuckDB) pass over names that begin with _.
"""

import hashlib
import json
import re
from typing import NamedTuple

from export.cluster.objects import at_once, names_in, opened, read_object, remove_object, write_object
from export.predictions.resume import START_ANEW, check_asked
from export.runtime.progress import tell

RUN, SUCCESS = "_run.json", "_SUCCESS"
OURS = re.compile(r"part-\d{5,}\.parquet|\.(part-\d{5,}\.parquet|_run\.json|_SUCCESS)\.[a-z0-9_]{8}")
"Shards, and what was half written when its process was killed."


class Note(NamedTuple):
    "What the footer of a shard says."

    run: str
    rows: int
    unread: list[tuple[int, str]]
    "(row, reason) of each photo that can't be read."


def shard_file(out: str, number: int) -> str:
    return f"{out}/{shard_name(number)}"


def shard_name(number: int) -> str:
    return f"part-{number:05d}.parquet"


def run_of(asked: dict) -> str:
    "What tells a run's shards from those of any other run."
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def begun(out: str, asked: dict, resume: bool) -> None:
    """The folder, ready for the shards of this run; `resume` keeps those it has.

    Raises FileExistsError where the folder is somebody else's; for `resume`, ValueError naming what differs.
    """
    present = names_in(out)
    if present and RUN not in present and not all(OURS.fullmatch(name) for name in present):
        raise FileExistsError(f"--out {out} holds other files, such as {present[0]}: give a folder of its own")
    if resume and RUN in present:
        check_asked(begun_with(out), asked, f"{out}/{RUN}")
        return
    if RUN in present and SUCCESS not in present:
        tell(f"{out}, of a run that was not finished, is begun anew: export.predict --resume would go on with it")
    if SUCCESS in present:
        remove_object(f"{out}/{SUCCESS}")
    write_object(f"{out}/{RUN}", json.dumps(asked, indent=2).encode())  # older shards name another run from here on
    _remove(out, [name for name in present if OURS.fullmatch(name)])


def begun_with(out: str) -> dict:
    "What the run that is in the folder was asked for; empty where there is none."
    return _read_run(out) if RUN in names_in(out) else {}


def notes(out: str, asked: dict, sizes: list[int]) -> dict[int, Note]:
    "The note of each shard that is there, of this run and whole, by its number; `sizes` are their rows."
    present, run = set(names_in(out)), run_of(asked)
    there = [number for number in range(len(sizes)) if shard_name(number) in present]
    read = zip(there, at_once(lambda number: _note(shard_file(out, number)), there), strict=True)
    return {number: note for number, note in read if note and (note.run, note.rows) == (run, sizes[number])}


def finish(out: str, asked: dict, done: dict[int, Note], sizes: list[int]) -> None:
    "Says that the folder is complete, once it is: each image has one row, and nothing else is there."
    if missing := [shard_name(number) for number in range(len(sizes)) if number not in done]:
        raise RuntimeError(f"{out} lacks {len(missing)} of {len(sizes)} shards, such as {missing[0]}: give --resume")
    if _read_run(out) != asked:
        raise FileExistsError(f"{out} was taken over by another run: give each its own folder")
    wanted = set(map(shard_name, range(len(sizes))))
    _remove(out, [name for name in names_in(out) if OURS.fullmatch(name) and name not in wanted])
    unread = sum(len(note.unread) for note in done.values())
    write_object(f"{out}/{SUCCESS}", json.dumps({"images": sum(sizes), "unread": unread}).encode())


def _remove(out: str, names: list[str]) -> None:
    at_once(lambda name: remove_object(f"{out}/{name}"), names)


def _read_run(out: str) -> dict:
    try:
        asked = json.loads(read_object(f"{out}/{RUN}"))
    except ValueError as error:
        raise ValueError(f"{out}/{RUN} is damaged: {START_ANEW}") from error
    if not isinstance(asked, dict):
        raise ValueError(f"{out}/{RUN} was not begun by this version: {START_ANEW}")
    return asked


def _note(where: str) -> Note | None:
    "None of a file that is no shard of ours."
    import pyarrow
    from pyarrow import parquet

    fs, path = opened(where)
    try:
        with fs.open(path, "rb") as file:
            footer = parquet.read_metadata(file)
        return Note(footer.metadata[b"run"].decode(), footer.num_rows, json.loads(footer.metadata[b"unread"]))
    except (pyarrow.ArrowInvalid, KeyError, TypeError):
        return None

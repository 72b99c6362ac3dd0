"""A folder of predictions in shards, part-00000.parquet and on, that any number of processes fill at once.

    _run.json      the settings of the run, written first
    part-*.parquet each is written whole, by any process, perhaps more than once with the same content
    _SUCCESS       written last: every image has exactly one row

A shard's footer holds the run it belongs to and why photos of it can't be read, so that the folder alone shows what is
missing. Readers of Parquet folders (pyarrow, pandas, Spark, DuckDB) skip names that begin with _.
"""

import hashlib
import json
import re
from typing import NamedTuple

from export.cluster.objects import at_once, names_in, opened, read_object, remove_object, write_object
from export.predictions.resume import START_ANEW, check_same_settings
from export.runtime.progress import print_line

RUN, SUCCESS = "_run.json", "_SUCCESS"
OURS = re.compile(r"part-\d{5,}\.parquet|\.(part-\d{5,}\.parquet|_run\.json|_SUCCESS)\.[a-z0-9_]{8}")
"The names of shards, and of files that were half written when their process was killed."


class Note(NamedTuple):
    "The content of a shard's footer."

    run: str
    rows: int
    unread: list[tuple[int, str]]
    "(row, reason) of each photo that can't be read."
    unsure: int
    "Answers below the model's threshold."


def shard_file(out: str, number: int) -> str:
    return f"{out}/{shard_name(number)}"


def shard_name(number: int) -> str:
    return f"part-{number:05d}.parquet"


def run_of(settings: dict) -> str:
    "The checksum of a run's settings, by which its shards differ from those of any other run."
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def prepare_folder(out: str, settings: dict, resume: bool) -> None:
    """Make the folder ready for the shards of this run; `resume` keeps those it has.

    Raises FileExistsError if the folder holds other files; with `resume`, ValueError naming the settings that differ.
    """
    present = names_in(out)
    if present and RUN not in present and not all(OURS.fullmatch(name) for name in present):
        raise FileExistsError(f"--out {out} holds other files, such as {present[0]}: give a folder of its own")
    if resume and RUN in present:
        check_same_settings(recorded_settings(out), settings, f"{out}/{RUN}")
        return
    if RUN in present and SUCCESS not in present:
        print_line(f"{out}, of a run that was not finished, starts anew: export.predict --resume would continue it")
    if SUCCESS in present:
        remove_object(f"{out}/{SUCCESS}")
    write_object(f"{out}/{RUN}", json.dumps(settings, indent=2).encode())  # older shards name another run from here on
    _remove(out, [name for name in present if OURS.fullmatch(name)])


def recorded_settings(out: str) -> dict:
    "The settings of the run that is in the folder; empty if there is none."
    return _read_run(out) if RUN in names_in(out) else {}


def notes(out: str, settings: dict, sizes: list[int]) -> dict[int, Note]:
    "The note of each whole shard of this run that is there, by its number; `sizes` are the rows of the shards."
    present, run = set(names_in(out)), run_of(settings)
    there = [number for number in range(len(sizes)) if shard_name(number) in present]
    read = zip(there, at_once(lambda number: _note(shard_file(out, number)), there), strict=True)
    return {number: note for number, note in read if note and (note.run, note.rows) == (run, sizes[number])}


def finish(out: str, settings: dict, done: dict[int, Note], sizes: list[int]) -> None:
    "Mark the folder as complete: one row per image, and no other shard. Raises RuntimeError if a shard is missing."
    if missing := [shard_name(number) for number in range(len(sizes)) if number not in done]:
        raise RuntimeError(f"{out} lacks {len(missing)} of {len(sizes)} shards, such as {missing[0]}: give --resume")
    if _read_run(out) != settings:
        raise FileExistsError(f"{out} was taken over by another run: give each its own folder")
    wanted = set(map(shard_name, range(len(sizes))))
    _remove(out, [name for name in names_in(out) if OURS.fullmatch(name) and name not in wanted])
    unread = sum(len(note.unread) for note in done.values())
    write_object(f"{out}/{SUCCESS}", json.dumps({"images": sum(sizes), "unread": unread}).encode())


def _remove(out: str, names: list[str]) -> None:
    at_once(lambda name: remove_object(f"{out}/{name}"), names)


def _read_run(out: str) -> dict:
    try:
        settings = json.loads(read_object(f"{out}/{RUN}"))
    except ValueError as error:
        raise ValueError(f"{out}/{RUN} is damaged: {START_ANEW}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{out}/{RUN} was not written by this version: {START_ANEW}")
    return settings


def _note(where: str) -> Note | None:
    "The note in a file's footer; None if it is no shard of ours."
    import pyarrow
    from pyarrow import parquet

    fs, path = opened(where)
    try:
        with fs.open(path, "rb") as file:
            footer = parquet.read_metadata(file)
        run, unread, unsure = (footer.metadata[name].decode() for name in (b"run", b"unread", b"unsure"))
        return Note(run, footer.num_rows, json.loads(unread), int(unsure))
    except (pyarrow.ArrowInvalid, KeyError, TypeError):
        return None

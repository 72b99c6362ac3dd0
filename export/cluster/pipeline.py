"""The Ray Data pipeline: shards of photos go to actors, each of which writes a shard's file and answers in one line.

Ray provides back-pressure, replaces actors that die, and repeats the shards that were lost with them.
"""

import contextlib
import json
import os
import warnings
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from export.cluster.labeller import Job, Labeller
from export.cluster.nodes import Share
from export.cluster.objects import Objects, is_uri
from export.runtime.progress import with_bar
from toolkit.errors import first_line

if TYPE_CHECKING:
    from ray.data import Dataset

ATTEMPTS = 5
"Times that a shard is tried before a photo in it is taken to kill the actors."


def label_shards(missing: dict[int, Objects], content: bytes, job: Job, share: Share, earlier: int) -> None:
    "Have each missing shard written. Raises RuntimeError with a node's message, or if a shard kills its actors."
    import ray

    total = earlier + sum(map(len, missing.values()))
    deaths = 2 * share.actors  # a node may go while its actors start
    try:
        with _settings(enable_progress_bars=False, max_consecutive_actor_init_deaths=deaths):
            answers = _pipeline(missing, ray.put(np.frombuffer(content, np.uint8)), job, share).iter_rows()
            for _ in with_bar(_each_row(answers), earlier, total):
                pass
    except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError) as error:
        raise RuntimeError(
            f"actors died {ATTEMPTS} times over one shard: of a photo in it, or of too little memory; for the latter "
            f"try a smaller --bs or fewer --actors ({first_line(error)})\n"
            "finished shards are kept: --resume continues with the rest"
        ) from error


@contextlib.contextmanager
def _settings(**wanted: bool | int) -> Iterator[None]:
    "Set these settings of Ray Data in the block."
    from ray.data import DataContext

    context = DataContext.get_current()
    before = {name: getattr(context, name) for name in wanted}
    _set(context, wanted)
    try:
        yield
    finally:
        _set(context, before)


def _set(context, values: dict) -> None:
    for name, value in values.items():
        setattr(context, name, value)


def _pipeline(missing: dict[int, Objects], model, job: Job, share: Share) -> "Dataset":
    "The data set of one row per shard, mapped by the actors."
    import ray.data
    from ray.util.annotations import RayDeprecationWarning

    rows = [{"shard": number, "photos": _packed(photos)} for number, photos in missing.items()]
    with warnings.catch_warnings():  # Ray 2.64 is to drop `max_task_retries`, and has nothing in its place yet
        warnings.simplefilter("ignore", RayDeprecationWarning)
        return ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            Labeller,
            fn_constructor_args=(model, job),
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=min(share.actors, len(rows))),
            num_cpus=share.cpus,
            num_gpus=share.gpus,
            max_task_retries=ATTEMPTS - 1,
        )


def _packed(photos: Objects) -> str:
    "The photos as JSON, which can hold a file name of any bytes; paths are absolute, as the nodes see them."
    return json.dumps([(name, where if is_uri(where) else os.path.abspath(where)) for name, where in photos])


def _each_row(answers: Iterable[dict]) -> Iterator[None]:
    "None for each labelled photo, for the progress bar. Raises RuntimeError with a node's message."
    for answer in answers:
        if answer["fault"]:
            raise RuntimeError(answer["fault"])
        yield from [None] * answer["rows"]

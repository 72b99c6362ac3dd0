"""Measure the seconds of each stage of a prediction run, and find the stage that limits its speed."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

Watch = Callable[[str], AbstractContextManager]
"Times a block as a stage: `with watch('decode'): ...`."

READING = ("read", "decode", "crop", "copy")
STAGES = (*READING, "model", "write")
"Workers do them, except writing: the thread that asks for the rows writes them, in between waiting for them."


def unwatched(stage: str) -> AbstractContextManager:
    "A Watch that measures nothing."
    return contextlib.nullcontext()


class Stopwatch:
    "Adds up the seconds of stages over all threads that share it: the sum may exceed the time that passed."

    def __init__(self):
        self.seconds, self.lock = dict.fromkeys((*STAGES, "wait"), 0.0), threading.Lock()

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            passed = time.perf_counter() - started
            with self.lock:
                self.seconds[stage] += passed

    def add(self, seconds: dict[str, float]) -> None:
        "Add seconds by stage that processes have counted."
        with self.lock:
            for stage, passed in seconds.items():
                self.seconds[stage] += passed

    def report(self, images: int, workers: int, in_flight: int, processes: bool = False, runners: int = 0) -> str:
        """Return a line for each stage, and one for the stage that limits the speed.

        `workers` threads read, or as many `processes`. `runners` separate threads run the model; if 0, the threads that
        read do, at most `in_flight` at a time. images/s of a stage is the rate of all its threads or processes
        together.
        """
        readers = max(workers, 1)
        counts = dict.fromkeys(READING, readers) | {"model": runners or min(readers, in_flight)}
        lines = [self._line(stage, images, counts.get(stage, 1), processes and stage in READING) for stage in STAGES]
        return "\n".join([*lines, self._bound(counts, runners > 0)])

    def _line(self, stage: str, images: int, count: int, processes: bool) -> str:
        seconds = self.seconds[stage]
        rate = f"{images * count / seconds:10,.0f} images/s" if seconds else f"{'-':>10}"
        readers = f"   in {count} {'processes' if processes else 'threads'}" if count > 1 else ""
        return f"{stage:8}{seconds:10.2f} s{rate}{readers}"

    def _bound(self, counts: dict[str, int], apart: bool) -> str:
        """Name the stage that limits the speed: writing if it takes longer than waiting for rows, else the workers'
        longest.

        apart: separate threads read and run the model, at the same time; the group with more work limits the speed.
        """
        write, wait = self.seconds["write"], self.seconds["wait"]
        if write > wait:
            return f"bound by write: {write / (write + wait):.0%} of the time"
        spent = {stage: self.seconds[stage] / count for stage, count in counts.items()}
        reading = sum(spent[stage] for stage in READING)
        if apart and spent["model"] > reading:
            return f"bound by model: it takes {spent['model']:.2f} s, reading {reading:.2f} s beside it"
        longest = max(READING if apart else spent, key=spent.get)
        whole = reading if apart else sum(spent.values())
        whose = "the time of those that read" if apart else "the workers' time"
        return f"bound by {longest}: {spent[longest] / (whole or 1):.0%} of {whose}"

"Where the time goes: seconds of each stage of a prediction run, and which of them bounds it."

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

Watch = Callable[[str], AbstractContextManager]
"Times a block as a stage: `with watch('decode'): ...`"

READING = ("read", "decode", "crop", "copy")
STAGES = (*READING, "model", "write")
"Workers do them, but for writing, which waits for them."


def unwatched(stage: str) -> AbstractContextManager:
    return contextlib.nullcontext()


class Stopwatch:
    "Adds up the seconds of stages; any number of threads may share one. They overlap: threads' sum exceeds the clock."

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

    def report(self, images: int, workers: int, in_flight: int) -> str:
        """A line for each stage, and one for what bounds the run.

        images/s of what threads do is that of all of them together; at most `in_flight` run the model.
        """
        threads = dict.fromkeys(READING, max(workers, 1)) | {"model": min(max(workers, 1), in_flight), "write": 1}
        return "\n".join([*(self._line(stage, images, threads[stage]) for stage in STAGES), self._bound(threads)])

    def _line(self, stage: str, images: int, threads: int) -> str:
        seconds = self.seconds[stage]
        rate = f"{images * threads / seconds:10,.0f} images/s" if seconds else f"{'-':>10}"
        return f"{stage:8}{seconds:10.2f} s{rate}" + (f"   in {threads} threads" if threads > 1 else "")

    def _bound(self, threads: dict[str, int]) -> str:
        "Writing where it outlasts the wait for rows, else what takes the workers longest."
        write, wait = self.seconds["write"], self.seconds["wait"]
        if write > wait:
            return f"bound by write: {write / (write + wait):.0%} of the time"
        spent = {stage: self.seconds[stage] / threads[stage] for stage in STAGES if stage != "write"}
        longest = max(spent, key=spent.get)
        return f"bound by {longest}: {spent[longest] / (sum(spent.values()) or 1):.0%} of the workers' time"

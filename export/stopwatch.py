"Where the time goes: seconds of each stage of a prediction run, and which of them bounds it."

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

Watch = Callable[[str], AbstractContextManager]
"Times a block as a stage: `with watch('decode'): ...`"

IN_THREADS = ("read", "decode", "crop")
IN_TURN = ("wait", "copy", "model", "write")


def unwatched(stage: str) -> AbstractContextManager:
    return contextlib.nullcontext()


class Stopwatch:
    "Adds up the seconds of stages; any number of threads may share one. They overlap: threads' sum exceeds the clock."

    def __init__(self):
        self.seconds, self.lock = dict.fromkeys(IN_THREADS + IN_TURN, 0.0), threading.Lock()

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            passed = time.perf_counter() - started
            with self.lock:
                self.seconds[stage] += passed

    def report(self, images: int, workers: int) -> str:
        """A line for each stage, and one for what bounds the run: of the stages that take turns, the longest.

        images/s of what threads do is that of all of them together.
        """
        lines = [self._line(stage, images, max(workers, 1)) for stage in IN_THREADS]
        lines += [self._line(stage, images, 1) for stage in IN_TURN if stage != "wait"]
        return "\n".join([*lines, self._bound(workers)])

    def _line(self, stage: str, images: int, threads: int) -> str:
        seconds = self.seconds[stage]
        rate = f"{images * threads / seconds:10,.0f} images/s" if seconds else f"{'-':>10}"
        return f"{stage:8}{seconds:10.2f} s{rate}" + (f"   in {threads} threads" if threads > 1 else "")

    def _bound(self, workers: int) -> str:
        turns = {stage: self.seconds[stage] for stage in IN_TURN}
        longest = max(turns, key=turns.get)
        share = f"{100 * turns[longest] / (sum(turns.values()) or 1):.0f} % of the time"
        if longest != "wait":
            return f"bound by {longest}: {share}"
        slowest = max(IN_THREADS, key=self.seconds.get)
        return f"bound by {slowest}: for {share} the model had no photos to go on with ({workers} workers)"

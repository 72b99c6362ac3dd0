"A side of a benchmark in a process of its own, which none of the other sides' settings, caches or workers reach."

from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context, set_start_method


class Apart:
    "`make(*given)` makes a function in that process; a call runs it there and returns its result."

    def __init__(self, make, *given):
        self.process = ProcessPoolExecutor(1, get_context("spawn"), _keep, (make, given))

    def begin(self, *arguments) -> Future:
        return self.process.submit(_run, *arguments)

    def __call__(self, *arguments):
        return self.begin(*arguments).result()

    def end(self) -> None:
        self.process.shutdown()


def _keep(make, given):
    global _run_kept
    set_start_method(None, force=True)  # the platform's own for its loaders' workers, not this process's
    _run_kept = make(*given)


def _run(*arguments):
    return _run_kept(*arguments)

"Pillow's warnings, kept off the terminal."

import threading
import warnings


class Quiet:
    """Keeps Pillow's warnings off the terminal; what matters of them is an error here.

    Filters belong to the process: of several threads the first one in sets them, the last one out puts them back.
    """

    def __init__(self) -> None:
        self.lock, self.inside = threading.Lock(), 0

    def __enter__(self) -> None:
        with self.lock:
            if self.inside == 0:
                self.filters = warnings.catch_warnings()
                self.filters.__enter__()
                warnings.filterwarnings("ignore", module="PIL")
            self.inside += 1

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.inside -= 1
            if self.inside == 0:
                self.filters.__exit__()


pillow_quiet = Quiet()

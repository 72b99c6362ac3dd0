"""The parts of an epoch's time, the part that bounds it, and what to try."""

import time
from collections import Counter

import torch
from fastai.callback.core import Callback

PARTS = {
    "data_wait": "waiting for photos",
    "copy": "copy to the device, normalising",
    "forward": "forward pass and loss",
    "backward": "backward pass",
    "step": "optimiser step, bookkeeping",
    "validation": "validation",
    "saving": "writing weights and page",
}


class EpochTimer(Callback):
    """The seconds of this fit's epochs by the host's clock: waiting for photos, computing, validating.

    A GPU computes while the host waits. So on a GPU the time of waiting is lost only if the GPU is idle meanwhile.
    """

    order = -60  # before all others, so that what they do counts as computing

    def __init__(self):
        self.epochs, self.seconds = 0, {"data_wait": 0.0, "compute": 0.0, "validation": 0.0}

    def before_train(self) -> None:
        self._since = time.perf_counter()

    def before_batch(self) -> None:
        self._add("data_wait" if self.training else "validation")

    def after_batch(self) -> None:
        self._add("compute" if self.training else "validation")

    def after_train(self) -> None:
        self._add("compute")

    def after_validate(self) -> None:
        self._add("validation")
        self.epochs += 1

    def per_epoch(self) -> dict[str, float]:
        "Seconds an epoch, as metrics.json has them; empty before the first has ended."
        return {f"seconds_{part}": spent / self.epochs for part, spent in self.seconds.items()} if self.epochs else {}

    def _add(self, part: str) -> None:
        now = time.perf_counter()
        self.seconds[part] += now - self._since
        self._since = now


class Clock:
    """Splits time into parts: each `mark` says what went on since the one before.

    On CUDA the marks are events in the device's own queue, which nobody waits for; a part is then the time that the
    device spent on it, or idle before it.
    """

    def __init__(self, device: torch.device):
        self.cuda, self.marks, self.seconds = device.type == "cuda", [], Counter()

    def mark(self, part: str) -> None:
        if self.cuda:
            now = torch.cuda.Event(enable_timing=True)
            now.record()
        else:
            now = time.perf_counter()
        self.marks.append((part, now))

    def read(self) -> Counter:
        "Seconds of each part so far. Waits for the device."
        if self.cuda and self.marks:
            self.marks[-1][1].synchronize()
        for (_, begun), (part, ended) in zip(self.marks, self.marks[1:], strict=False):
            self.seconds[part] += begun.elapsed_time(ended) / 1000 if self.cuda else ended - begun
        self.marks = self.marks[-1:]
        return self.seconds


class Profile(Callback):
    "Prints where a fit's time went when it ends: `learn.fit(1, cbs=Profile())`; `found` says it to programs."

    order = 100  # after all others: what they do counts to the part it comes in

    def __init__(self):
        self.clock, self.epochs = None, 0

    def before_fit(self) -> None:
        self.clock = self.clock or Clock(self.dls.device)

    def before_train(self) -> None:
        self.clock.marks.clear()  # of an epoch that was interrupted
        self.clock.mark("")
        self.dl.mark = self.clock.mark  # `toolkit.data.photo_loader` calls it when photos have come
        self.trained = False

    def before_batch(self) -> None:
        if self.training:
            self.clock.mark("copy")

    def after_loss(self) -> None:
        if self.training:
            self.clock.mark("forward")

    def after_backward(self) -> None:
        self.clock.mark("backward")

    def after_batch(self) -> None:
        if self.training:
            self.clock.mark("step")
            self.trained = True

    def after_train(self) -> None:
        self.dl.mark = None
        self.clock.mark("step")

    def after_validate(self) -> None:
        self.clock.mark("validation")

    def after_epoch(self) -> None:
        self.clock.mark("saving")
        if not self.trained:  # a linear probe, which is no epoch like the others
            self.clock.marks.clear()
            return
        self.clock.read()
        self.epochs += 1

    def after_fit(self) -> None:
        self.dls.train.clock = None
        if self.epochs and self.learn.fault is None:
            print(table(self.found()), flush=True)

    def found(self) -> dict[str, object]:
        'Of finished epochs: {"epochs", "seconds" of an epoch by part, "bound_by", "try"}; empty before the first.'
        if not self.epochs:
            return {}
        seconds = {part: self.clock.seconds[part] / self.epochs for part in PARTS}
        bound_by, advice = verdict(seconds, self.clock.cuda)
        return {"epochs": self.epochs, "seconds": seconds, "bound_by": bound_by, "try": advice}


def verdict(seconds: dict[str, float], cuda: bool) -> tuple[str, str]:
    "Return what bounds an epoch whose parts take `seconds`, and what to try: the first part that takes too long."
    total = sum(seconds.values())
    share = {part: spent / total for part, spent in seconds.items()}
    compute = "a smaller --image_size or --arch, --precision auto, --compile"
    for part, most, bound_by, advice in (
        ("data_wait", 0.2, "data", "more --workers where there are cores for them, smaller files, --cache"),
        ("saving", 0.2, "saving", "a faster disk for --out"),
        ("copy", 0.15, "copy", "more photos at once, by --bs" if cuda else compute),
        ("validation", 0.5, "validation", "fewer photos to validate on, or more to train on"),
        ("step", 0.25, "step", "fewer steps, by a larger --accum or --bs"),
    ):
        if share[part] > most:
            return bound_by, advice
    return "compute", compute + (", a larger --bs where memory allows" if cuda else ", a GPU")


def table(found: dict[str, object]) -> str:
    "Return the result of `Profile.found` as readable text."
    seconds = found["seconds"]
    total = sum(seconds.values())
    rows = [f"  {PARTS[part]:<32}{spent:8.2f} s {spent / total:6.1%}" for part, spent in seconds.items()]
    return "\n".join(
        [f"an epoch of {total:.2f} s:", *rows, f"bound by {found['bound_by']}; what may help: {found['try']}"]
    )

"""Progressive resizing: training on small squares first, on larger ones later."""

from collections.abc import Sequence

from fastai.callback.core import Callback

from toolkit.data.dataloaders import check_own
from toolkit.data.transforms import Augment
from toolkit.ranges import check_ranges


class ProgressiveResizing(Callback):
    """Training squares of sizes[0] pixels in a fit's first epochs, of sizes[-1] in its last, equally many of each.

    Smaller squares train faster; validation stays as it is. Source: https://arxiv.org/abs/2104.00298 (progressive
    learning), https://arxiv.org/abs/1906.06423 (why training may be smaller than testing).
    """

    def __init__(self, sizes: Sequence[int]):
        self.sizes = list(sizes)
        check_ranges({"train_sizes": self.sizes})

    def before_fit(self) -> None:
        self.run = self.learn.is_plain_fit
        if not self.run:
            return
        check_own(self.dls)
        fixed = self.dls.preprocess["crop"]
        if self.model.pretrained_cfg["fixed_input_size"] and set(self.sizes) != {fixed}:
            sizes = " ".join(map(str, self.sizes))
            raise ValueError(f"--train_sizes {sizes}: {type(self.model).__name__} takes no other than {fixed} pixels")
        self.before, self.size = self.learn.epochs_done, None
        self.epochs = self.before + self.n_epoch
        self._grow(0)

    def before_train(self) -> None:
        self._grow(self.epoch)

    def _grow(self, epoch: int) -> None:
        "Train on the squares of that epoch of the fit. If the size stays the same, so do transforms and workers."
        share = max(self.before + epoch, 0) / max(self.epochs, 1)  # a fit of a probe alone has no training epoch
        size = self.sizes[int(share * len(self.sizes))]
        if size != self.size:
            self.size = size
            augment = next(step for step in self.dls.train.after_item if isinstance(step, Augment))
            augment.transform = self.dls.augment.at(size)

"""A run by plain gradient descent, started by test_distributed.py on one process and on two: AdamW forgives a gradient
that is twice as large, this does not.

    python tests/sgd_run.py DATA OUT
"""

import sys
from functools import partial
from pathlib import Path

import torch
from fastai.optimizer import OptimWrapper

from recipes import hw1
from toolkit.training.begin import begin
from toolkit.training.evaluate import evaluate
from toolkit.training.fit import fit


def run(data: Path, out: Path) -> None:
    options = {"loss": "ce", "arch": "test_convnext", "weights": "none", "lr": 0.1, "bs": 7, "accum": 2, "seed": 0}
    options["best"] = "macro_f1"  # a figure of all ranks' confusion matrices
    learn = hw1.learner(data, image_size=32, workers=0, device="cpu", precision="fp32", **options)
    learn.opt_func = partial(OptimWrapper, opt=torch.optim.SGD)
    begun = begin(out, learn)
    fit(learn, begun, 3)
    evaluate(learn, begun)


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]))

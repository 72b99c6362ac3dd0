"""Training into a run folder: from the run's present state to its last epoch."""

import gc

import torch

from toolkit import ranks
from toolkit.finetuning.linear_probe import is_probing
from toolkit.learner.device import lacks_memory
from toolkit.learner.distributed import distributed_gradients
from toolkit.learner.guards import NaNGuard
from toolkit.learner.learner import Learner
from toolkit.learner.profiler import EpochTimer, Profile
from toolkit.models.pretrained import load_weights
from toolkit.ranges import check_ranges
from toolkit.run import Run
from toolkit.training.best_figure import Patience, is_over, measure_best
from toolkit.training.checkpoint import Checkpoint
from toolkit.training.progress import RunPage, shown
from toolkit.training.signals import stopping_at_a_step


def fit(learn: Learner, run: Run, epochs: int | None = None, save_every: int | None = None) -> None:
    """Train `learn` from the present state of `run` up to `epochs` epochs, then load the best weights.

    epochs, save_every: by default those of `learn.options`.
    After each epoch history.csv and last.pt are written, and best.safetensors if the epoch is the best yet by --best.
    Training ends early if --patience epochs in a row are not, or a callback of fastai's ends the fit. last.pt is also
    written every `save_every` optimiser steps. After SIGINT (Ctrl-C) or SIGTERM it is written at the next step, and
    KeyboardInterrupt is raised. If memory runs out, batches are halved and twice as many are accumulated.
    With --profile the parts of an epoch's time are printed, and `evaluate` records them.
    On several ranks all of them train (`learner.distributed`). After training rank 0 returns; the other ranks end
    their processes in this function.
    Raises ValueError for a loss that is not finite, and names the photos. A note on every error names the last saved
    epoch.
    """
    options = learn.options
    epochs = options.epochs if epochs is None else epochs
    save_every = options.save_every if save_every is None else save_every
    if epochs is None:
        raise ValueError("fit without a number of epochs: give epochs=, or --epochs by the recipe")
    check_ranges({"epochs": epochs, "save_every": save_every})
    measure_best(learn)
    checkpoint, learn.time_spent = Checkpoint(run, epochs, save_every, options.best), EpochTimer()
    learn.profiles = [Profile()] if options.profile and ranks.rank() == 0 else []
    if checkpoint.finished >= epochs:
        print(f"all {epochs} epochs are done", flush=True)
    elif checkpoint.state and not is_over(checkpoint, options.patience):
        print(f"going on after {checkpoint.saved}", flush=True)
    if checkpoint.state:
        checkpoint.write_history()  # a kill may have come between the two files
    with shown(learn), stopping_at_a_step(checkpoint):
        try:
            with distributed_gradients(learn):
                unfinished = not is_over(checkpoint, options.patience)
                while unfinished:
                    unfinished = _ran_out_of_memory(learn, checkpoint)
            if checkpoint.stop:
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"interrupted; {how_to_go_on(checkpoint)}") from None
        except Exception as error:
            if run.path("recipe.json").is_file():
                error.add_note(how_to_go_on(checkpoint))
            raise
    if checkpoint.finished < epochs:
        print(
            f"training ends after {checkpoint.finished} of {epochs} epochs: {_why_early(learn, checkpoint)}", flush=True
        )
    load_weights(learn.model, run.path("best.safetensors"))


def _ran_out_of_memory(learn: Learner, checkpoint: Checkpoint) -> bool:
    "Fit to the end, and return False. If memory runs out, return True: the next fit goes on with smaller batches."
    try:
        page = [RunPage(checkpoint.target)] if ranks.rank() == 0 else []
        cbs = [NaNGuard(), checkpoint, learn.time_spent, *page, *learn.profiles, Patience()]
        learn.fit(checkpoint.epochs - checkpoint.finished, cbs=cbs)
        return False
    except RuntimeError as error:
        if not lacks_memory(error):
            raise
        if checkpoint.halved is None:
            remedy = "Leave out the linear probe" if is_probing(learn) else "Try a smaller --bs, --image_size or --arch"
            said = str(error).partition(":\n\t")[2] or str(error)  # without fastai's words on the callback
            raise ValueError(f"{said.splitlines()[0]} {remedy}") from error
    print(checkpoint.halved, flush=True)
    gc.collect()  # the error kept the tensors of the failed pass
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return True


def _why_early(learn: Learner, checkpoint: Checkpoint) -> str:
    "Why training ended before its last epoch. Raises ValueError if it ended before the end of the first one."
    if not checkpoint.finished:
        raise ValueError("a callback ended training in its first epoch: there are no weights of a whole one")
    if not is_over(checkpoint, learn.options.patience):
        return "a callback ended it"
    best = f"{learn.options.best} than epoch {checkpoint.best.epoch}"
    return f"none of the last {learn.options.patience} had a better {best}"


def how_to_go_on(checkpoint: Checkpoint) -> str:
    "Return the text on what is saved, which the first rank knows, and on how to go on."
    saved = "" if ranks.rank() else f"saved: {checkpoint.saved}; "
    return f"{saved}go on with --out {checkpoint.target.folder} --resume"

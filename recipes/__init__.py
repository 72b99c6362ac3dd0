"""The definition of a recipe, and the pipeline that every recipe's command runs.

A recipe is a function from `Options` to a fastai Learner. `recipe` gives it defaults and makes all options its
parameters; `pipeline` makes a command of it.
"""

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import toolkit  # noqa: F401  first: it keeps fastai quiet and handles Ctrl-C while libraries are imported
from toolkit import ranks
from toolkit.options import Options
from toolkit.recipe.early import check_arguments_early
from toolkit.recipe.signature import Recipe, recipe_of

if TYPE_CHECKING:
    from toolkit.learner.learner import Learner
    from toolkit.loggers.logger import Logger
    from toolkit.run import Run

check_arguments_early()


def recipe(**defaults: Any) -> Callable[[Callable[..., "Learner"]], Callable[..., "Learner"]]:
    """A decorator that makes a recipe of a function from `Options` to a Learner.

    defaults: the recipe's defaults of shared options. The function's parameters after the first are its own options.
    The recipe takes all options as parameters, by position (data, loss, ...) or by name. It returns a Learner after the
    search of all values that were `auto`; `learn.options` has the values finally used.
    Raises TypeError for an unknown name, ValueError for a value that is not accepted.
    """

    def decorate(build: Callable[..., "Learner"]) -> Callable[..., "Learner"]:
        made = recipe_of(build, defaults)

        @functools.wraps(build)
        def learner(*args: Any, **kwargs: Any) -> "Learner":
            return make(made, *made.bound(args, kwargs))

        learner.__signature__, learner.recipe = made.signature, made
        return learner

    return decorate


def make(recipe: Recipe, options: Options, own: dict[str, Any], folder: Path | None = None) -> "Learner":
    """Return the Learner of a recipe: build it, search the values that are `auto`, plan its epochs if the recipe does.

    folder: of the run to come, if it is to be one.
    """
    from fastai.torch_core import set_seed

    from toolkit.learner.device import resolved
    from toolkit.search.auto import search_auto
    from toolkit.search.network import best_network
    from toolkit.training.best_figure import measure_best

    check_one_model(options)
    start = resolved(recipe.without_auto(options))
    set_seed(start.seed)
    learn = best_network(recipe.build, start, own) if start.arch == "auto" else recipe.build(start, **own)
    learn.own_options = own | dict(learn.own_options)
    learn.recipe, learn.command, learn.free = recipe.name, recipe.command, recipe.free
    learn.folder = folder
    measure_best(learn)
    search_auto(learn, options)
    if learn.plan:
        learn.plan(learn)
    return learn


def check_one_model(options: Options) -> None:
    "Raises ValueError for --folds without a fold: a Learner is one model."
    if options.folds and not options.fold:
        raise ValueError(f"folds={options.folds} are as many models, and a Learner is one: give them to the command")


def exit_status(unread: list) -> int:
    "2 if photos to predict could not be read, else 0."
    return 2 if unread else 0


def pipeline(learner: Callable[..., "Learner"]) -> Callable[..., list]:
    """Return the command of a recipe: train, restore the best epoch, evaluate, export, report, predict data/test.

    It takes the recipe's options and returns the photos without a prediction, as `export.predict.predict` does.
    """
    made: Recipe = learner.recipe

    @functools.wraps(learner)
    def main(*args: Any, **kwargs: Any) -> list:
        return run_pipeline(made, *made.bound(args, kwargs))

    main.__signature__, main.recipe = made.signature, made
    return main


def run_pipeline(recipe: Recipe, options: Options, own: dict[str, Any]) -> list:
    "Run a recipe into its run folder, or resume the run there; with --folds, into a folder of them."
    from export.run_predictions import predict_test_photos
    from toolkit.data.on_disk.folds import check_out, is_fold
    from toolkit.run import new_folder
    from toolkit.training.evaluate import print_results

    folder = new_folder(recipe.name, options.loss, options.out, options.resume)
    check_out(folder, options.folds)
    if options.folds and not is_fold(folder):
        return run_folds(recipe, options, own, folder)
    learn, run = train(recipe, options, own, folder, page=False)
    unread = predict_test_photos(run, learn.dls.data, learn.dls.device.type)
    print_results(run)
    return unread


def train(
    recipe: Recipe, options: Options, own: dict[str, Any], folder: Path, page: bool = True
) -> "tuple[Learner, Run]":
    """Train, evaluate and export a recipe's model in `folder`, or resume the run there. page: write its page too.

    The run of a fold also predicts the photos that it holds out; if it has finished, nothing is done again.
    """
    from export.to_onnx import to_onnx
    from toolkit.features.heatmaps.page_heatmaps import explain_page
    from toolkit.loggers.log import logged
    from toolkit.pages.run_page import with_page
    from toolkit.training.begin import begin
    from toolkit.training.evaluate import evaluate
    from toolkit.training.fit import fit
    from toolkit.training.out_of_fold import evaluate_held_out, finished

    options, own = ranks.from_first(lambda: recipe.resumed(folder, options, own))
    trackers = trackers_and_places(options, folder)
    learn = make(recipe, options, own, folder)
    run = begin(folder, learn)
    if finished(run, learn.options.epochs, learn.options.patience):
        return learn, run
    with logged(learn, run, trackers):
        fit(learn, run)
        evaluate(learn, run)
        explain_page(learn, run)
        with with_page(run, always=page):
            to_onnx(run.folder, device=learn.dls.device.type, details=False)
        if learn.dls.data.held_out:
            evaluate_held_out(learn, run)
    return learn, run


def trackers_and_places(options: Options, folder: Path) -> "dict[str, Logger]":
    "Return the trackers of --log. Raises ValueError if `folder`, the cache or a tracker would write among the photos."
    from toolkit.data.on_disk.layouts import check_outside_data
    from toolkit.loggers.log import folders, loggers

    trackers = loggers(options.log)
    check_outside_data(options.data, {"--out": folder, "--cache": options.cache} | folders(trackers))
    return trackers


def run_folds(recipe: Recipe, options: Options, own: dict[str, Any], out: Path) -> list:
    """Train the models of --folds in folders of their own, then model.onnx: their average, or with --refit another one.

    Their out-of-fold predictions, metrics, page and model.onnx are written to `out`.
    """
    from export.average import average_models
    from export.predict import predict
    from toolkit.data.on_disk.folds import fold_folder
    from toolkit.learner.device import pick_device
    from toolkit.run import lock
    from toolkit.training import folds
    from toolkit.training.fold_plan import dataset_of, plan
    from toolkit.training.out_of_fold import gather

    options = replace(options, out=out, resume=True)
    trackers_and_places(options, out)
    data = dataset_of(recipe, options, own)
    held = None if options.fold else lock(out)
    plan(recipe, options, own, data)
    own = folds.shared_budget(options, own)
    for fold in [options.fold] if options.fold else range(1, options.folds + 1):
        with folds.fold_run(options, fold) as single:
            train(recipe, single, own, single.out)
    if options.fold:
        return folds.print_left(options)
    gather(out)
    device = pick_device(options.device).type
    if options.refit:
        with folds.refit_run(options) as single:
            train(recipe, single, own, single.out)
        folds.copy_refit(out)
    else:
        models = [fold_folder(out, fold) / "model.onnx" for fold in range(1, options.folds + 1)]
        average_models(models, out / "model.onnx", device=device, images=1000)
    folds.finish(out, options.refit)
    unread = predict(out / "model.onnx", data.test, out / "predictions.csv", device) if data.test else []
    folds.print_results(out)
    del held
    return unread

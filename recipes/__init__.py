"""The definition of a recipe, and the pipeline that every recipe's command runs.

A recipe is a function from `Options` to a fastai Learner. `recipe` gives it defaults and makes all options its
parameters; `pipeline` makes a command of it.
"""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import toolkit  # noqa: F401  first: it keeps fastai quiet and handles Ctrl-C while libraries are imported
from toolkit.options import Options
from toolkit.recipe.early import check_arguments_early
from toolkit.recipe.signature import Recipe, recipe_of

if TYPE_CHECKING:
    from toolkit.learner.learner import Learner

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


def make(recipe: Recipe, options: Options, own: dict[str, Any]) -> "Learner":
    "Return the Learner of a recipe: build it, search the values that are `auto`, plan epochs if the recipe plans them."
    from fastai.torch_core import set_seed

    from toolkit.learner.device import resolved
    from toolkit.search.auto import search_auto
    from toolkit.search.network import best_network

    start = resolved(recipe.without_auto(options))
    set_seed(start.seed)
    learn = best_network(recipe.build, start, own) if start.arch == "auto" else recipe.build(start, **own)
    learn.own_options = own | dict(learn.own_options)
    learn.recipe, learn.command, learn.free = recipe.name, recipe.command, recipe.free
    search_auto(learn, options)
    if learn.plan:
        learn.plan(learn)
    return learn


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
    "Run a recipe into its run folder, or resume the run there."
    from export.predict import predict
    from export.to_onnx import to_onnx
    from toolkit.data.on_disk.layouts import check_outside_data
    from toolkit.loggers.log import folders, logged, loggers
    from toolkit.pages.run_page import write_report
    from toolkit.run import new_folder
    from toolkit.training.begin import begin
    from toolkit.training.evaluate import evaluate, print_results
    from toolkit.training.fit import fit

    folder = new_folder(recipe.name, options.loss, options.out, options.resume)
    options, own = recipe.resumed(folder, options, own)
    trackers = loggers(options.log)
    check_outside_data(options.data, {"--out": folder, "--cache": options.cache} | folders(trackers))
    learn = make(recipe, options, own)
    run = begin(folder, learn)
    with logged(learn, run, trackers):
        fit(learn, run)
        evaluate(learn, run)
        device = learn.dls.device.type
        to_onnx(run.folder, device=device, details=False)
        write_report(run)
    photos = learn.dls.data.test
    unread = predict(run.path("model.onnx"), photos, run.path("predictions.csv"), device) if photos else []
    print_results(run)
    return unread

"""A recipe's options: one signature of the shared options with its defaults and of its own options."""

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from typing_extensions import Doc

from toolkit.commandline.parameters import field_comments, parameter_comments
from toolkit.options import FREE_NAMES, TYPES, Options, check_choices, check_folds, converted, is_free
from toolkit.ranges import check_ranges
from toolkit.recipe.begun import begun_options
from toolkit.schema import read_recipe

KEPT = ("epochs", "patience", "promise")
"Options that may change when a run is resumed, and that it keeps if they are left open."


@dataclass(frozen=True)
class Recipe:
    "A function from Options to a Learner, with its defaults and its own options."

    name: str  # in run folders and recipe.json
    command: Sequence[str]  # the words that start its command: python -m recipes.hw1, or python FILE
    build: Callable[..., Any]  # Options and its own options -> a Learner
    defaults: Mapping[str, Any]  # of shared options
    own: Mapping[str, Any]  # the types of its own options
    signature: inspect.Signature  # of all options

    @property
    def free(self) -> frozenset[str]:
        "The names of options that may change when a run is resumed."
        return FREE_NAMES | {name for name, annotation in self.own.items() if is_free(annotation)}

    @property
    def budgets(self) -> frozenset[str]:
        "The names of its own options that plan the epochs of a run that begins, as --minutes does."
        planned = self.signature.parameters["epochs"].default is None
        return self.free - FREE_NAMES if planned else frozenset()

    def bound(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Options, dict[str, Any]]:
        """Return the shared options and the recipe's own options of a call, with defaults filled in.

        If the call resumes a run, options that are not given are those of the run, but for OF_A_COMMAND.
        Raises TypeError for an unknown name, ValueError for a value that is not accepted.
        """
        types, given = TYPES | self.own, self.signature.bind(*args, **kwargs).arguments
        begun = begun_options(self.name, given, types.keys(), self.budgets)
        call = self.signature.bind(**begun | given)
        call.apply_defaults()
        values = {name: converted(value, types[name]) for name, value in call.arguments.items()}
        check_choices(values, types)
        check_ranges(values)
        options = Options(**{name: values[name] for name in TYPES})
        check_folds(options)
        return options, {name: values[name] for name in self.own}

    def without_auto(self, options: Options) -> Options:
        "Return `options` with the recipe's defaults of --lr and --bs if they are auto; a search starts from them."
        starts = {name: self.defaults.get(name) for name in ("lr", "bs") if getattr(options, name) == "auto"}
        return replace(options, **starts)

    def resumed(self, folder: Path, options: Options, own: dict[str, Any]) -> tuple[Options, dict[str, Any]]:
        """Return the options with the values recorded by the run in `folder`, if any, for the options left open.

        Thus nothing is searched, measured or planned again. An option is left open if it is auto, or if it is None or
        empty and may not change in a resumed run, or if it is None and in KEPT. --accum follows from --bs auto,
        --weights from --arch auto.
        """
        if not (folder / "recipe.json").is_file():
            return options, own
        recorded = read_recipe(folder / "recipe.json")["options"]
        given = vars(options) | own
        taken = {name: recorded[name] for name, value in given.items() if name in recorded and self._open(name, value)}
        if options.bs == "auto" and self._same_step(options, recorded):
            taken["accum"] = recorded["accum"]
        if options.arch == "auto":
            taken["weights"] = recorded["weights"]
        types = TYPES | self.own
        taken = {name: converted(value, types[name]) for name, value in taken.items()}
        own = own | {name: value for name, value in taken.items() if name in own}
        if "epochs" in taken:  # a budget that they were planned for has been spent
            own |= {name: self.signature.parameters[name].default for name in self.budgets}
        return replace(options, **{name: value for name, value in taken.items() if name in TYPES}), own

    def _open(self, name: str, value: Any) -> bool:
        if isinstance(value, str) and value == "auto":
            return name != "device"
        if name in ("gamma", "smoothing"):
            return False  # None is the loss's default
        return value in (None, ()) and (name not in self.free or name in KEPT)

    def _same_step(self, options: Options, recorded: dict[str, Any]) -> bool:
        "True if an optimiser step has as many photos by these options as in the recorded run."
        start = self.without_auto(options).bs
        if start is None:  # chosen by the data
            return options.accum == self.signature.parameters["accum"].default
        return recorded["bs"] * recorded["accum"] == start * options.accum


def recipe_of(build: Callable[..., Any], defaults: dict[str, Any]) -> Recipe:
    "Return the recipe of `build`, whose parameters after the first are its own options. Unknown defaults: TypeError."
    if unknown := defaults.keys() - TYPES:
        raise TypeError(f"unknown defaults {', '.join(sorted(unknown))}: toolkit/options.py lists all options")
    own = {name: kind for name, kind in get_type_hints(build, include_extras=True).items() if name != "return"}
    parameters = list(inspect.signature(build).parameters.values())
    own = {each.name: own.get(each.name, Any) for each in parameters[1:]}
    name, command = _name_and_command(build)
    return Recipe(name, command, build, defaults, own, merged_signature(build, parameters[1:], own, defaults))


def merged_signature(
    build: Callable[..., Any], parameters: list[inspect.Parameter], own: Mapping[str, Any], defaults: Mapping[str, Any]
) -> inspect.Signature:
    "Return one signature of the shared options and the recipe's own `parameters`. Annotations carry the help texts."
    shared, comments = field_comments(Options), parameter_comments(build)
    options = [(each.name, defaults.get(each.name, each.default), TYPES[each.name], shared) for each in fields(Options)]
    options += [(each.name, each.default, own[each.name], comments) for each in parameters]
    return inspect.Signature(
        [_parameter(name, default, kind, help, "by the data") for name, default, kind, help in options]
    )


def _parameter(name: str, default: Any, kind: Any, comments: Mapping[str, str], otherwise: str) -> inspect.Parameter:
    "A parameter whose annotation carries its help; `otherwise` says what None stands for, if its comment does not."
    help = comments.get(name, "")
    if default is None and "(default" not in help:
        help += f" (default: {otherwise})"
    kind_of = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Parameter(name, kind_of, default=default, annotation=Annotated[kind, Doc(help)])


def _name_and_command(build: Callable[..., Any]) -> tuple[str, list[str]]:
    "Return the recipe's name and the words that start it, by the module or file that defines it."
    module = build.__globals__
    spec, file = module.get("__spec__"), module.get("__file__")
    if spec is not None and "." in spec.name:
        return spec.name.rpartition(".")[2], ["python", "-m", spec.name]
    if file:
        return Path(file).stem, ["python", os.path.abspath(file)]
    return build.__name__, []  # written in a notebook


def shared_parameters(function: Callable[..., Any], names: Sequence[str]) -> inspect.Signature:
    "Return the signature of `function` with the shared options `names`, by default None, in place of `**`."
    shared, comments = field_comments(Options), parameter_comments(function)
    types = get_type_hints(function, include_extras=True)
    own = list(inspect.signature(function).parameters.values())[:-1]
    parameters = [_parameter(each.name, each.default, types[each.name], comments, "") for each in own]
    return inspect.Signature(
        parameters + [_parameter(name, None, TYPES[name], shared, "the recipe's") for name in names]
    )

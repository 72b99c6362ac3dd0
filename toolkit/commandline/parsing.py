"""The arguments of a command line -> the keyword arguments of a function.

tyro 1.0.17 reads the values. Two things it shows are replaced, because a user looks for one line in them: an error is 5
to 16 lines of a box there, and two lines here; the help is a box there, and plain text here.
"""

import dataclasses
import itertools
import re
import shutil
import sys
import textwrap
from collections.abc import Callable
from typing import Any, NoReturn

from toolkit.commandline.names import typed_name
from toolkit.commandline.parameters import Parameter, parameters_of
from toolkit.commandline.suggestions import unknown_flag, unknown_words


def parsed(function: Callable, arguments: list[str]) -> dict[str, Any]:
    """Return the keyword arguments for `function`.

    Exits with 0 after printing the help, and with 2 and two lines on stderr if `arguments` do not fit its signature.
    """
    parameters = parameters_of(function)
    arguments = _without_defaults(arguments, parameters)
    flags = _flags(arguments, parameters)
    if flags & {"-h", "--help"}:
        print(help_text(function, parameters))
        sys.exit(0)
    if any(each.takes_several for each in parameters if each.required):
        arguments = _options_first(arguments, parameters)
    values = _values(parameters, arguments)
    for each in parameters:
        if each.takes_several and each.flag in flags and not values[each.name]:
            _refuse(f"argument {each.flag}: expected at least one argument", parameters)
    return values


def given(function: Callable, arguments: list[str]) -> dict[str, Any]:
    "Return the keyword arguments that `arguments` name, as `parsed` does; `function` has defaults for the others."
    parameters, values = parameters_of(function), parsed(function, arguments)
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    named = {word.partition("=")[0].replace("_", "-") for word in options}
    spelled = {each.name: {f"--{word}{each.name}".replace("_", "-") for word in ("", "no-")} for each in parameters}
    return {each.name: values[each.name] for each in parameters if each.required or spelled[each.name] & named}


def _options_first(arguments: list[str], parameters: list[Parameter]) -> list[str]:
    """Move the positional arguments behind the options and a `--`. Exits with 2 if there are too few of them.

    argparse takes the first positional argument for the last parameter if one before it takes several and an option
    follows: `predict a.onnx photos --bs 8`.
    """
    kinds = {each.flag.replace("_", "-"): each for each in parameters if not each.required}
    options, words, left = [], [], iter(arguments)
    for word in left:
        if word == "--":
            words += left
        elif not re.match(r"-[^\d.]", word):
            words.append(word)
        else:
            options.append(word)
            kind = kinds.get(word.replace("_", "-"))
            if kind is not None and kind.kind is not bool:
                options += itertools.islice(left, 1)
    if missing := [each.name for each in parameters if each.required][len(words) :]:
        _refuse(f"the following arguments are required: {', '.join(missing)}", parameters)
    return [*options, "--", *words]


def _without_defaults(arguments: list[str], parameters: list[Parameter]) -> list[str]:
    "Leave out flags that say a default, such as `--probe` if `--no-probe` turns it off."
    flags = {f"--{word}{each.name}" for each in parameters if each.kind is bool for word in ("", "no-")}
    defaults = {flag.replace("_", "-") for flag in flags - {each.flag for each in parameters}}
    return [each for each in arguments if each.replace("_", "-") not in defaults]


def _flags(arguments: list[str], parameters: list[Parameter]) -> set[str]:
    """Return the flags among `arguments`, spelled as the parameters are. Exits with 2 if a flag is unknown.

    So does an abbreviation: what it stands for would change with the next flag added.
    """
    flags = ["-h", "--help", *(each.flag for each in parameters if not each.required)]
    spelled = {flag.replace("_", "-"): flag for flag in flags}
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    found = set()
    for name in (each.partition("=")[0] for each in options if re.match(r"-[^\d.]", each)):
        if (flag := spelled.get(name.replace("_", "-"))) is None:
            _refuse(unknown_flag(name, flags, [each.name for each in parameters if each.required]), parameters)
        found.add(flag)
    return found


def _values(parameters: list[Parameter], arguments: list[str]) -> dict[str, Any]:
    "Have tyro read `arguments`; exits with 2 if it refuses them."
    import tyro
    from tyro import _errors  # private, but nothing else tells its errors apart; one that is new shows tyro's box

    def refuse(event: _errors.ParseErrorEvent) -> None:
        if message := _message(event, {each.name: each for each in parameters}):
            _refuse(message, parameters)

    with _errors.on_parse_error(refuse):
        found = tyro.cli(
            _dataclass(parameters),
            prog=typed_name(),
            args=arguments,
            use_underscores=True,  # flags are spelled as the parameters are
            add_help=False,
            config=(tyro.conf.PositionalRequiredArgs, tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone),
        )
    return vars(found)


def _dataclass(parameters: list[Parameter]) -> type:
    "Return a dataclass with one field a parameter, which is what tyro reads."
    fields: list[Any] = [
        (each.name, each.kind)
        if each.required
        else (each.name, each.kind, dataclasses.field(default_factory=lambda each=each: each.default))
        for each in parameters
    ]
    return dataclasses.make_dataclass("Arguments", fields, kw_only=True)


def _message(event: Any, parameters: dict[str, Parameter]) -> str | None:
    "Return one line for an event of `tyro._errors`, or None for an event that this does not know."
    kind = type(event).__name__
    if kind == "MissingArgs":
        missing = [each.arg.field.intern_name for each in event.missing_arguments]
        return f"the following arguments are required: {', '.join(missing)}"
    if kind == "UnrecognizedArgs":
        return unknown_words(event.tokens, {each.flag for each in parameters.values() if not each.required})
    if kind not in ("BadValue", "InvalidChoice", "InstantiationFailure") or event.argument is None:
        return None
    parameter = parameters[event.argument.field.intern_name]
    name = f"argument {parameter.name if parameter.required else parameter.flag}"
    if kind == "BadValue":
        return f"{name}: expected one argument"
    if kind == "InvalidChoice":
        return f"{name}: invalid choice: {event.value!r} (choose from {', '.join(event.choices)})"
    given = re.search(r"(['\"].*['\"])\]?\.?$", event.message.splitlines()[0])
    return f"{name}: invalid {' or '.join(parameter.accepted)} value: {given[1] if given else event.message}"


def _refuse(message: str, parameters: list[Parameter]) -> NoReturn:
    "Exit with 2: `message` and how the command is used, a line each on stderr."
    print(f"error: {message}\n{_usage(parameters)}; --help lists them", file=sys.stderr)
    sys.exit(2)


def _usage(parameters: list[Parameter]) -> str:
    named = [each.name.upper() + " ..." * each.takes_several for each in parameters if each.required]
    return f"usage: {' '.join([typed_name(), *named])} [flags]"


# The help


def help_text(function: Callable, parameters: list[Parameter]) -> str:
    "Return the help of a command: usage, the first paragraph of the docstring, and each argument with its default."
    width = min(shutil.get_terminal_size().columns, 120)
    described = (function.__doc__ or "").strip().partition("\n\n")[0]
    lines = [_usage(parameters), ""]
    lines += textwrap.wrap(described, width) + [""]
    for each in parameters:
        lines += _help_lines(each.name.upper() if each.required else f"{each.flag} {each.metavar}", _help(each), width)
    return "\n".join(lines + _help_lines("-h, --help", "show this help and exit", width))


def _help(parameter: Parameter) -> str:
    default = parameter.default
    if parameter.required or parameter.kind is bool or default in (None, "", (), []) or "(default" in parameter.help:
        return parameter.help
    shown = " ".join(map(str, default)) if parameter.takes_several else default
    return f"{parameter.help} (default: {shown})".strip()


def _help_lines(name: str, text: str, width: int) -> list[str]:
    "The argument in a column of 26 characters and its help beside it, or below if the name is longer."
    head, gap = f"  {name.strip()}", " " * 26
    lines = textwrap.wrap(text, width, initial_indent=gap, subsequent_indent=gap) or [gap]
    beside = len(head) < len(gap)
    return [(head + lines[0][len(head) :]).rstrip(), *lines[1:]] if beside else [head, *lines]

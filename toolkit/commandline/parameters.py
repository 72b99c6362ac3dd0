"""The parameters of a function as options of a command: name, type, choices, default and help."""

import ast
import inspect
import io
import textwrap
import tokenize
from collections.abc import Callable
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Parameter:
    "A parameter as the command line sees it. kind: its type, without the metadata of Annotated."

    name: str
    kind: Any
    default: Any
    help: str

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty

    @property
    def flag(self) -> str:
        "`--image_size`, or `--no-export` if the flag turns off what is on by default."
        return f"--no-{self.name}" if self.kind is bool and self.default is True else f"--{self.name}"

    @property
    def takes_several(self) -> bool:
        return get_origin(self.kind) in (tuple, list)

    @property
    def item(self) -> Any:
        "The type of one value: int for `tuple[int, ...]` and `list[int]`."
        return get_args(self.kind)[0] if self.takes_several else self.kind

    @property
    def accepted(self) -> list[str]:
        'The types and words that a value may be: ["int", "auto"] for `int | Literal["auto"] | None`.'
        kinds = get_args(self.item) if get_origin(self.item) in (Union, UnionType) else (self.item,)
        found = []
        for kind in kinds:
            if get_origin(kind) is Literal:
                found += map(str, get_args(kind))
            elif kind is not NoneType:
                found.append(kind.__name__.lower())
        return found

    @property
    def metavar(self) -> str:
        "Its value in the help: `int|auto`, `{ce,focal}`, or `int ...` for one value or more."
        if self.kind is bool:
            return ""
        shown = f"{{{','.join(self.accepted)}}}" if get_origin(self.item) is Literal else "|".join(self.accepted)
        return f"{shown} ..." if self.takes_several else shown


def parameters_of(function: Callable) -> list[Parameter]:
    """Return the parameters of `inspect.signature(function)`, which honours a `__signature__` attribute.

    Their help is a `typing_extensions.Doc` in the annotation, else the trailing comment in the function's source.
    """
    comments, found = parameter_comments(function), []
    for parameter in inspect.signature(function).parameters.values():
        annotation = parameter.annotation
        if isinstance(annotation, str):
            annotation = get_type_hints(function, include_extras=True)[parameter.name]
        kind, doc = _without_metadata(annotation)
        kind = kind | None if parameter.default is None else kind
        text = doc or comments.get(parameter.name, "")
        text = f"do not {text}" if kind is bool and parameter.default is True else text
        found.append(Parameter(parameter.name, kind, parameter.default, text))
    return found


def _without_metadata(annotation: Any) -> tuple[Any, str]:
    "Return the type of `Annotated[type, ...]` and its Doc. Choices in the metadata make the type a Literal."
    if get_origin(annotation) is not Annotated:
        return annotation, ""
    from typing_extensions import Doc  # in typing only from Python 3.14 on

    kind, *metadata = get_args(annotation)
    doc = next((each.documentation for each in metadata if isinstance(each, Doc)), "")
    choices = next((each["choices"] for each in metadata if isinstance(each, dict) and "choices" in each), None)
    if choices is not None:
        words = Literal[tuple(choices)]
        kind = tuple[words, ...] if get_origin(kind) is tuple else list[words] if get_origin(kind) is list else words
    return kind, doc


def parameter_comments(function: Callable) -> dict[str, str]:
    "Return the comment at the end of each parameter's last line; nothing if the function has no source."
    try:
        source = textwrap.dedent(inspect.getsource(function))
        (definition,) = ast.parse(source).body
        arguments = definition.args
    except (OSError, TypeError, SyntaxError, ValueError, AttributeError):
        return {}
    lines = _comment_lines(source)
    named = arguments.posonlyargs + arguments.args
    ends = dict(zip(reversed(named), reversed(arguments.defaults), strict=False))
    ends |= {
        name: default for name, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if default
    }
    every = [*named, *arguments.kwonlyargs]
    return {each.arg: lines[line] for each in every if (line := ends.get(each, each).end_lineno) in lines}


def field_comments(kind: type) -> dict[str, str]:
    "The comment at the end of each field's line in the source of a dataclass."
    source = textwrap.dedent(inspect.getsource(kind))
    (definition,) = ast.parse(source).body
    lines = _comment_lines(source)
    fields = [each for each in definition.body if isinstance(each, ast.AnnAssign)]
    return {each.target.id: lines[each.end_lineno] for each in fields if each.end_lineno in lines}


def _comment_lines(source: str) -> dict[int, str]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}

"""A function whose last parameter is a dataclass of options, as a function with a parameter for each option."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Annotated, Any

from typing_extensions import Doc

from toolkit.commandline.parameters import field_comments, parameter_comments


def with_keywords(options: type) -> Callable[[Callable], Callable]:
    """A decorator: the function's last parameter, of the dataclass `options`, becomes one parameter for each field.

    The comment after a field is its help. All fields have defaults. The result raises TypeError for an unknown name.
    """
    help_texts, kind = field_comments(options), inspect.Parameter.POSITIONAL_OR_KEYWORD
    parts = [
        inspect.Parameter(each.name, kind, default=each.default, annotation=Annotated[each.type, Doc(help)])
        for each in fields(options)
        for help in [help_texts[each.name]]
    ]

    def decorate(function: Callable) -> Callable:
        comments = parameter_comments(function)
        own = [
            each.replace(annotation=Annotated[each.annotation, Doc(comments.get(each.name, ""))])
            for each in list(inspect.signature(function).parameters.values())[:-1]
        ]

        @functools.wraps(function)
        def call(*given: Any, **named: Any) -> Any:
            bound = call.__signature__.bind(*given, **named)
            bound.apply_defaults()
            values = dict(bound.arguments)
            return function(*(values.pop(each.name) for each in own), options(**values))

        call.__signature__ = inspect.Signature([*own, *parts])
        call.__annotations__ = {each.name: each.annotation for each in (*own, *parts)}
        return call

    return decorate

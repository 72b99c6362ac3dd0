"""The names that classes may have."""

from typing import Any

from toolkit.files import is_unicode

MOST_CLASSES = 100_000  # ImageNet's largest edition has 21,841


def classes_fault(classes: Any) -> str | None:
    "The reason why `classes` can't be the class names of a model; None if they can."
    if not isinstance(classes, list) or not classes or not all(isinstance(name, str) and name for name in classes):
        return "its classes are not a list of names"
    if len(classes) > MOST_CLASSES:
        return f"it names {len(classes):,} classes, at most {MOST_CLASSES:,} are read"
    if len(set(classes)) < len(classes):
        return "two of its classes have one name"
    if not is_unicode("".join(classes)):
        return "a name of its classes is not Unicode text"
    return None

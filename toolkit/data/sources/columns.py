"""The columns of a table that hold the photo and its label: as named, or found by their types."""

from typing import TYPE_CHECKING, Any, NamedTuple

from toolkit.errors import first_few
from toolkit.files import is_unicode, parse_json

if TYPE_CHECKING:
    import pyarrow as pa


class Columns(NamedTuple):
    "The names of the columns; None for those to be found."

    image: str | None = None
    label: str | None = None

    def refuse(self, reason: str) -> None:
        "Raise ValueError if a column is named for what has none."
        for name, value in self._asdict().items():
            if value is not None:
                raise ValueError(
                    f"--{name}_column {value}: {reason}; leave it out, only Parquet files and folders of "
                    "`datasets` have columns"
                )


def find_columns(schema: "pa.Schema", wanted: Columns, labelled: bool, where: str) -> Columns:
    """Return the names of the column of photos and, if the photos are `labelled`, of the column of labels.

    A column is a candidate if its feature in `datasets` is Image or ClassLabel; if none is, by its type: bytes, or a
    struct that has them; text, whole numbers or truth values. Of several candidates the one called image or label is
    taken. Raises ValueError, with the candidates, if one is not found.
    """
    declared = features(schema, where)
    image = _one(schema, wanted.image, "image", _declared(declared, "Image") or _typed(schema, holds_photos), where)
    labels = [name for name in _declared(declared, "ClassLabel") or _typed(schema, holds_labels) if name != image]
    return Columns(image, _one(schema, wanted.label, "label", labels, where) if labelled else None)


def features(schema: "pa.Schema", where: str) -> dict[str, Any]:
    "The features of `datasets` by column, from the schema's metadata; empty if there are none."
    text = (schema.metadata or {}).get(b"huggingface")
    if text is None:
        return {}
    try:
        found = parse_json(text.decode())["info"]["features"]
        return {name: feature for name, feature in found.items() if isinstance(feature, dict)}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{where}: its schema's `huggingface` metadata is damaged: write the file again") from error


def class_names(schema: "pa.Schema", column: str, where: str) -> list[str] | None:
    "The names of the classes that a column's numbers stand for; None if it holds the labels themselves."
    feature = features(schema, where).get(column, {})
    names = feature.get("names") if feature.get("_type") == "ClassLabel" else None
    if names is not None and not (isinstance(names, list) and all(map(_is_unicode, names))):
        raise ValueError(f"{where}: the names of the classes of {column} are damaged: write the file again")
    return names


def holds_photos(kind: "pa.DataType") -> bool:
    "True for bytes, and for a struct with a field `bytes` of them."
    import pyarrow.types as is_type

    if is_type.is_struct(kind):
        at = kind.get_field_index("bytes")
        return at >= 0 and holds_photos(kind.field(at).type)
    return is_type.is_binary(kind) or is_type.is_large_binary(kind)


def holds_labels(kind: "pa.DataType") -> bool:
    "True for text, whole numbers and truth values, also if they are numbered in a dictionary."
    import pyarrow.types as is_type

    if is_type.is_dictionary(kind):
        return holds_labels(kind.value_type)
    return is_text(kind) or is_type.is_integer(kind) or is_type.is_boolean(kind)


def is_text(kind: "pa.DataType") -> bool:
    "True for a column of text."
    import pyarrow.types as is_type

    return is_type.is_string(kind) or is_type.is_large_string(kind)


def _is_unicode(name: Any) -> bool:
    return isinstance(name, str) and is_unicode(name)


def _declared(declared: dict[str, Any], kind: str) -> list[str]:
    return [name for name, feature in declared.items() if feature.get("_type") == kind]


def _typed(schema: "pa.Schema", fits: Any) -> list[str]:
    "Columns by their type, but those that pandas adds for its index."
    return [field.name for field in schema if fits(field.type) and not field.name.startswith("__")]


def _one(schema: "pa.Schema", wanted: str | None, kind: str, candidates: list[str], where: str) -> str:
    "The column that is wanted or the only candidate. kind: image or label."
    if wanted is not None:
        if schema.names.count(wanted) != 1:
            raise ValueError(f"--{kind}_column {wanted}: {where} has the columns {first_few(schema.names, 20)}")
        accepted = {"image": lambda kind: holds_photos(kind) or is_text(kind), "label": holds_labels}[kind]
        if not accepted(held := schema.field(wanted).type):
            raise ValueError(
                f"--{kind}_column {wanted} of {where} holds {held}, which is no {kind}: name another column"
            )
        return wanted
    if len(candidates) > 1:
        candidates = [name for name in candidates if name == kind] or candidates
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        columns = first_few([f"{field.name} ({field.type})" for field in schema], 20)
        raise ValueError(f"{where} has no column of {kind}s, of {columns}: name one by --{kind}_column")
    raise ValueError(
        f"{where} has {len(candidates)} columns that may be the {kind}: {first_few(candidates, 20)}; name "
        f"one by --{kind}_column"
    )

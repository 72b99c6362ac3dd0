"""A model file for other people: without facts of this machine."""

import json
from pathlib import PureWindowsPath
from typing import Any

import onnx


def last_part(path: str) -> str:
    "The last name of a path of any system, as Unicode text; a plain word stays as it is."
    return PureWindowsPath(path).name.encode(errors="replace").decode()


def without_paths(options: dict[str, Any]) -> dict[str, Any]:
    "The options of a recipe with the last part of each path."
    return {name: last_part(value) if isinstance(value, str) else value for name, value in options.items()}


def published(model: onnx.ModelProto) -> onnx.ModelProto:
    "The model, changed in place: paths in its options are cut to their last part, stack traces in its graph are gone."
    metadata = {prop.key: prop.value for prop in model.metadata_props}
    recipe = json.loads(metadata.get("recipe", "null"))
    if isinstance(recipe, dict) and isinstance(recipe.get("options"), dict):
        recipe["options"] = without_paths(recipe["options"])
        metadata |= {"recipe": json.dumps(recipe, ensure_ascii=False)}
    onnx.helper.set_model_props(model, metadata)
    for part in (*model.graph.node, *model.graph.value_info, *(node for f in model.functions for node in f.node)):
        del part.metadata_props[:]
    return model

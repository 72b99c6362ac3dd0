"""The description of the routes for programs (OpenAPI 3.1), and the page for people that is made from it.

Source: https://spec.openapis.org/oas/v3.1.0.html
"""

import json
import re
from typing import Any

from export.serving.inference import LENGTH, model_metadata
from export.serving.service import Service
from toolkit.installation.packages import own_version

TEXT, NUMBER, YES_NO = {"type": "string"}, {"type": "number"}, {"type": "boolean"}
PHOTO_BYTES = {"schema": {"type": "string", "format": "binary"}}
REFUSALS = {
    "400": "not what its Content-Type says",
    "401": "no token, or another one",
    "408": "the body came too slowly",
    "413": "too many bytes or photos",
    "415": "another Content-Type",
    "422": "no photo could be read",
    "503": "too many photos are waiting: try again after the seconds in Retry-After",
}


def described(service: Service) -> dict[str, Any]:
    "The OpenAPI document of the service."
    base = f"/v2/models/{service.name}"
    model = f"The model: its tensors. A request to {base}/infer gives one of the inputs."
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"rapid-finetune: {service.name}",
            "version": own_version(),
            "description": _limits(service),
        },
        "paths": {
            "/predict": {"post": _predict(service)},
            f"{base}/infer": {"post": _infer(service)},
            base: _get(model, "Model", model_metadata(service.model, service.name)),
            f"{base}/ready": _get(
                "200 if the model answers, else 503.", "Ready", {"name": service.name, "ready": True}
            ),
            "/v2": _get("The server: name, version and extensions.", "Server"),
            "/v2/health/live": _get("200 while the process runs.", "Live", {"live": True}),
            "/v2/health/ready": _get("200 if the model answers, else 503.", "Ready", {"ready": True}),
            "/metrics": {
                "get": {
                    "summary": "Counters for Prometheus.",
                    "responses": {"200": {"description": "text format 0.0.4", "content": {"text/plain": {}}}},
                }
            },
        },
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }


def page(document: dict[str, Any]) -> str:
    "The HTML page of an OpenAPI document. It loads nothing."
    from jinja2 import Environment, PackageLoader
    from markupsafe import Markup, escape

    environment = Environment(loader=PackageLoader("export", "serving"), autoescape=True)
    environment.filters["pretty"] = lambda value: json.dumps(value, indent=2)
    environment.filters["marked"] = lambda text: Markup(re.sub("`(.+?)`", r"<code>\1</code>", str(escape(text))))
    return environment.get_template("docs.html").render(document=document)


def _limits(service: Service) -> str:
    limits = service.limits
    return (
        f"A request holds at most {limits.max_photos} photos in {limits.max_bytes / 1e6:.0f} MB, a photo at most "
        f"{limits.max_pixels:,} pixels. {limits.queue} photos may wait; more are refused with 503."
    )


def _predict(service: Service) -> dict[str, Any]:
    classes = list(service.model.card.classes)
    shown = {name: figure for name, figure in zip(classes, (0.9, 0.1), strict=False)}
    entry = {"label": classes[0], "confidence": 0.9, "probabilities": shown, "unsure": None}
    files = {"type": "array", "items": {"type": "string", "format": "binary"}}
    listed = {"type": "array", "items": {"type": "string", "contentEncoding": "base64"}}
    return {
        "summary": "Label one photo or several.",
        "description": "The body is a photo, a form with files, or JSON with base64. `unsure` is null if the model "
        "makes no promise. A photo that can't be read has `error` in place of a label.",
        "parameters": [
            {"name": "top", "in": "query", "description": "tell this many classes; all unless given",
             "schema": {"type": "integer", "minimum": 1, "maximum": len(classes)}}
        ],
        "requestBody": {
            "required": True,
            "content": {
                "image/*": PHOTO_BYTES,
                "application/octet-stream": PHOTO_BYTES,
                "multipart/form-data": {"schema": {"type": "object", "additionalProperties": files}},
                "application/json": {
                    "schema": {"type": "object", "required": ["photos"], "properties": {"photos": listed}}
                },
            },
        },
        "responses": _answers("Predictions", {"model": service.name, "predictions": [entry]}),
    }  # fmt: skip


def _infer(service: Service) -> dict[str, Any]:
    example = {"inputs": [{"name": "photo", "datatype": "BYTES", "shape": [1], "data": ["/9j/4AAQSkZJRg..."]}]}
    return {
        "summary": "Label photos by the Open Inference Protocol (KServe v2).",
        "description": "`image` holds prepared pixels, `photo` the files: base64 in JSON, bytes in binary tensors.",
        "parameters": [{"name": LENGTH, "in": "header", "schema": {"type": "integer"}}],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": {"$ref": "#/components/schemas/InferenceRequest"}, "example": example},
                "application/octet-stream": PHOTO_BYTES,
            },
        },
        "responses": _answers("InferenceResponse", None),
    }


def _get(summary: str, schema: str, example: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"get": {"summary": summary, "responses": {"200": _content("as it says", schema, example)}}}


def _answers(schema: str, example: dict[str, Any] | None) -> dict[str, Any]:
    refused = {status: _content(text, "Error", None) for status, text in REFUSALS.items()}
    return {"200": _content("the answer", schema, example), **refused}


def _content(text: str, schema: str, example: dict[str, Any] | None) -> dict[str, Any]:
    content = {"schema": {"$ref": f"#/components/schemas/{schema}"}} | ({"example": example} if example else {})
    return {"description": text, "content": {"application/json": content}}


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required, "properties": properties}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _schemas() -> dict[str, Any]:
    tensor = {"name": TEXT, "datatype": TEXT, "shape": _list({"type": "integer"})}
    whole, parameters = ["name", "datatype", "shape"], {"type": "object"}
    given = _object(whole, **tensor, parameters=parameters, data={"type": "array"})
    read = _object(
        ["label", "confidence", "probabilities", "unsure"],
        name=TEXT,
        label=TEXT,
        confidence=NUMBER,
        probabilities={"type": "object", "additionalProperties": NUMBER},
        unsure={"type": ["boolean", "null"]},
    )
    return {
        "Predictions": _object(
            ["model", "predictions"],
            model=TEXT,
            predictions=_list({"anyOf": [read, _object(["error"], name=TEXT, error=TEXT)]}),
        ),
        "InferenceRequest": _object(
            ["inputs"], id=TEXT, inputs=_list(given), outputs=_list({"type": "object"}), parameters=parameters
        ),
        "InferenceResponse": _object(["model_name", "outputs"], model_name=TEXT, id=TEXT, outputs=_list(given)),
        "Model": _object(
            ["name", "platform", "inputs", "outputs"],
            name=TEXT, platform=TEXT, inputs=_list(_object(whole, **tensor)), outputs=_list(_object(whole, **tensor)),
        ),
        "Server": _object(["name", "version", "extensions"], name=TEXT, version=TEXT, extensions=_list(TEXT)),
        "Live": _object(["live"], live=YES_NO),
        "Ready": _object(["ready"], name=TEXT, ready=YES_NO),
        "Error": _object([], error=TEXT),
    }  # fmt: skip

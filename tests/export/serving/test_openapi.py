"""The OpenAPI document fits the real answers, and the page loads nothing."""

import re
from importlib import metadata

import jsonschema
import pytest
from prometheus_client.parser import text_string_to_metric_families
from service import ask

from export.serving.app import server_metadata


@pytest.fixture(scope="module")
def document(running):
    return ask(running.port, "/openapi.json").json


def validate(document, value, path, method="get", status="200"):
    content = document["paths"][path][method]["responses"][status]["content"]["application/json"]
    resolvable = content["schema"] | {"components": document["components"]}
    jsonschema.validate(value, resolvable, jsonschema.Draft202012Validator)
    if "example" in content:
        jsonschema.validate(content["example"], resolvable, jsonschema.Draft202012Validator)


def test_answers_are_as_described(port, document, photos):
    asked = [path for path, methods in document["paths"].items() if "get" in methods and path != "/metrics"]
    assert len(asked) >= 5
    for path in asked:
        validate(document, ask(port, path).json, path)
    with pytest.raises(jsonschema.ValidationError):  # the schema would refuse another answer
        validate(document, {"predictions": "none"}, "/predict", "post")
    validate(document, ask(port, "/predict", photos[0].read_bytes()).json, "/predict", "post")
    validate(document, ask(port, "/predict", b"").json, "/predict", "post", "400")


def test_every_path_is_described_and_answers(port, document):
    paths = {match[1] for match in re.finditer(r'path="(/[^"]*)"', ask(port, "/metrics").body.decode())}
    assert paths - set(document["paths"]) <= {
        "/",
        "/docs",
        "/openapi.json",
        "/page.js",
        "/engines.js",
        "/prepare.js",
        "/orientation.js",
    }
    for path, methods in document["paths"].items():
        assert ask(port, path, b"x" if "post" in methods else None).status != 404


def test_a_page_names_every_path_and_loads_nothing(port, document):
    assert 'href="docs"' in ask(port, "/").body.decode()
    page = ask(port, "/docs").body.decode()
    for path in document["paths"]:
        assert path in page
    assert not re.findall(r"""(?:src|href)=["']?(?!/openapi.json)[^"' >]+|https?://|@import""", page)


def test_prometheus_reads_the_metrics(port, photos):
    assert ask(port, "/predict", photos[0].read_bytes()).status == 200
    answer = ask(port, "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = {family.name: family for family in text_string_to_metric_families(answer.body.decode())}
    assert {
        "rapid_finetune_requests",
        "rapid_finetune_batch_photos",
        "process_resident_memory_bytes",
    } <= families.keys()
    (info,) = families["rapid_finetune_model_info"].samples
    assert (info.labels["name"], info.labels["device"]) == ("tiny", "cpu")


def test_a_checkout_that_is_not_installed_says_so(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    assert server_metadata()["version"] == metadata.version("rapid-finetune")
    monkeypatch.setattr(metadata, "version", missing)
    assert server_metadata()["version"] == "not installed"

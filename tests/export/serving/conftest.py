"""One service for all tests that do not need another. Its time limits are short."""

from collections.abc import Iterator
from pathlib import Path

import predicting
import pytest
import service
import tiny_onnx

SHORT = "\n".join(
    [
        "from export.serving import connection, uploads",
        "connection.HEADERS_WITHIN, connection.CHECK_EVERY, uploads.BODY_WITHIN = 1, 0.2, 1",
    ]
)


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    return tiny_onnx.write(tmp_path_factory.mktemp("served") / "tiny.onnx")


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    return [predicting.save(folder / f"{seed}.png", seed) for seed in range(24)]


@pytest.fixture(scope="session")
def running(model) -> Iterator[service.Running]:
    "It takes 2 MB and 1,000,000 pixels; the model is called tiny."
    with service.started(model, "--max_mb", 2, "--max_pixels", 1_000_000, before=SHORT) as running:
        yield running


@pytest.fixture
def port(running) -> int:
    return running.port

"""A running `export.serve`, in a process of its own, and questions to it by Python's own HTTP client."""

import contextlib
import http.client
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import hostile

ROOT = Path(__file__).resolve().parents[1]


class Running(NamedTuple):
    port: int
    process: subprocess.Popen


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


@contextlib.contextmanager
def started(*arguments: object, before: str = "", device: str = "cpu", **environment: str) -> Iterator[Running]:
    "before: statements that run first, such as a shorter time limit. At the end the service gets SIGTERM."
    with subprocess.Popen(
        [sys.executable, "-c", f"{before}\n{RUN}", *map(str, arguments), "--device", device, "--port", "0"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    ) as process:
        try:
            line = process.stdout.readline()
            assert line, process.stderr.read()
            yield Running(int(re.search(r"http://\S+?:(\d+);", line)[1]), process)
        finally:
            process.terminate()
            process.wait(60)


SLOW_MODEL = """
import time
from export.session import Classifier
answers = Classifier.answers
Classifier.answers = lambda *given: time.sleep(0.5) or answers(*given)
"""
"Statements after which a batch takes half a second more."

RUN = "from export.serve import serve\nfrom toolkit.command import run_script\nrun_script(serve)"


def wait_until(port: int, name: str, least: float) -> None:
    "Wait until a figure of the metrics is as large."
    latest = time.monotonic() + 30
    while hostile.metrics(port)[name] < least:
        assert time.monotonic() < latest, name
        time.sleep(0.005)


def ask(port: int, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Answer:
    "The answer to a GET, or to a POST if there is a body."
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET" if body is None else "POST", path, body, headers or {})
        answer = connection.getresponse()
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
    finally:
        connection.close()

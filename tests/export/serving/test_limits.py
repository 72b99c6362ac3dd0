"""What is too much is refused, at once, and the service goes on."""

import asyncio
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import hostile
import numpy as np
import pytest
from service import SLOW_MODEL, started, wait_until
from starlette.exceptions import HTTPException

from export.serving.limits import Limits
from export.serving.service import Service
from export.session import Classifier

KINDS = hostile.kinds()


@pytest.mark.parametrize("name", [name for name in KINDS if name not in hostile.SLOW])
def test_a_hostile_request_is_refused(port, running, name):
    assert hostile.status_of(port, KINDS[name]) in hostile.expected(name)
    assert running.process.poll() is None


def test_a_client_that_sends_all_before_it_reads_gets_its_refusal(port):
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        head, body = hostile.post(bytes(1_500_000), path="/admin").split(b"\r\n\r\n", 1)
        connection.sendall(head + b"\r\n\r\n")
        for at in range(0, len(body), 500_000):
            time.sleep(0.1)
            connection.sendall(body[at : at + 500_000])
        time.sleep(0.1)
        assert connection.recv(4096).startswith(b"HTTP/1.1 404")


def test_slow_requests_are_refused_and_silent_connections_closed(port):
    with ThreadPoolExecutor() as pool:
        statuses = dict(
            zip(hostile.SLOW, pool.map(lambda name: hostile.status_of(port, KINDS[name]), hostile.SLOW), strict=True)
        )
    assert statuses == {"slow headers": 408, "slow body": 408, "nothing": 408}


def test_after_all_of_it_a_good_photo_is_answered(port):
    assert hostile.good(port) == 200


def test_hostile_requests_leave_no_photo_bytes_or_connection_behind(port):
    for name in ("cut in the body", "reset in the body", "3 MB", "noise"):
        hostile.status_of(port, KINDS[name])
    latest = time.monotonic() + 10
    while (figures := hostile.metrics(port))["rapid_finetune_connections"] > 1 and time.monotonic() < latest:
        time.sleep(0.1)
    assert figures["rapid_finetune_connections"] == 1  # the one that asks
    assert figures["rapid_finetune_photos_held"] == figures["rapid_finetune_bytes_held"] == 0


def test_what_the_service_cannot_hold_is_refused_in_milliseconds_before_its_body_comes(model):
    with started(model, "--queue", 2, "--max_photos", 1, before=SLOW_MODEL) as running, ThreadPoolExecutor(8) as pool:
        posted = [pool.submit(hostile.good, running.port) for _ in range(8)]
        wait_until(running.port, "rapid_finetune_photos_held", 2)
        times = []
        for _ in range(3):
            begun = time.perf_counter()
            with socket.create_connection(("127.0.0.1", running.port), timeout=60) as connection:
                connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n")
                head = connection.recv(4096)
            times.append(time.perf_counter() - begun)
            assert head.startswith(b"HTTP/1.1 503")
            assert b"retry-after: 1" in head.lower()
        assert min(times) < 0.1
        assert {each.result() for each in posted} == {200, 503}
        assert hostile.good(running.port) == 200


def test_requests_that_come_at_once_are_not_more_than_the_queue_holds(model):
    "All of them are looked at before one of them is answered."

    async def ask():
        service = Service(Classifier(model, "cpu"), "m", Limits(10**6, 10**6, 1, queue=2), runners=1)
        ended, request = asyncio.Event(), SimpleNamespace(receive=asyncio.Event().wait)

        async def answers(photos):
            await ended.wait()
            return [("a", np.ones(1))] * len(photos)

        service.batcher.answers = answers
        asked = [asyncio.ensure_future(service.answers(request, [b"photo"])) for _ in range(5)]
        await asyncio.sleep(0)
        assert service.held == 2
        ended.set()
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        assert [isinstance(each, HTTPException) for each in outcomes] == [False, False, True, True, True]
        assert service.held == 0

    asyncio.run(ask())


def test_connections_beyond_the_limit_are_refused(model):
    before = "from export.serving import connection\nconnection.CONNECTIONS = 3"
    with started(model, before=before) as running:
        held = [socket.create_connection(("127.0.0.1", running.port), timeout=60) for _ in range(3)]
        assert hostile.status_of(running.port, hostile.get("/v2/health/live")) == 503
        for each in held:
            each.close()
        latest = time.monotonic() + 10
        while hostile.good(running.port) != 200 and time.monotonic() < latest:
            time.sleep(0.05)
        assert hostile.good(running.port) == 200


def test_uploads_together_are_bounded(model):
    before = "from export.serving import uploads\nuploads.IN_MEMORY = 1"
    with started(model, "--max_mb", 1, before=before) as running:
        part = hostile.post(hostile.jpeg() + bytes(900_000))[:-100]
        with socket.create_connection(("127.0.0.1", running.port), timeout=60) as first:
            first.sendall(part)
            wait_until(running.port, "rapid_finetune_bytes_held", 800_000)
            assert hostile.status_of(running.port, part + bytes(100)) == 503
            first.sendall(bytes(100))
            assert first.recv(4096).startswith(b"HTTP/1.1 200")

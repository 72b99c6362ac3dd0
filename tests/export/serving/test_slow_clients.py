"""A client that takes its answer slowly gets all of it; one that does not take it is cut."""

import socket
import threading
import time

import pytest
import uvicorn

from export.serving import connection
from export.serving.connection import Connection

SIZE = 8_000_000  # bytes: more than the system's buffers hold for a connection
NEVER = 3600


@pytest.fixture
def port(monkeypatch):
    "A server that gives SIZE bytes at once, as the service gives an answer."

    async def answer(scope, receive, send):
        headers = [(b"content-length", str(SIZE).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": bytes(SIZE)})

    monkeypatch.setattr(connection, "CHECK_EVERY", 0.1)
    options = {"http": Connection, "loop": "asyncio", "ws": "none", "lifespan": "off", "log_config": None}
    server = uvicorn.Server(uvicorn.Config(answer, timeout_keep_alive=1, access_log=False, **options))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        yield listener.getsockname()[1]
        server.should_exit = server.force_exit = True
        thread.join(30)
        assert not thread.is_alive()


def received(port, close, pause):
    "The bytes that come to a client that waits so many seconds first, and then takes the answer in two."
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.connect(("127.0.0.1", port))
        client.settimeout(30)
        client.sendall(f"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: {close}\r\n\r\n".encode())
        time.sleep(pause)
        count, head = 0, b""
        try:
            while b"\r\n\r\n" not in head or count < head.index(b"\r\n\r\n") + 4 + SIZE:
                part = client.recv(100_000)
                if not part:
                    break
                count, head = count + len(part), head or part
                time.sleep(0.02)
        except ConnectionResetError:
            return 0
        return count - head.index(b"\r\n\r\n") - 4


@pytest.mark.parametrize("close", ["close", "keep-alive"])
def test_an_answer_that_is_taken_slowly_comes_whole(port, close, monkeypatch):
    monkeypatch.setattr(connection, "ANSWER_WITHIN", NEVER)
    assert received(port, close, pause=0) == SIZE


@pytest.mark.parametrize("close", ["close", "keep-alive"])
def test_an_answer_that_is_not_taken_is_cut_after_its_time(port, close, monkeypatch):
    monkeypatch.setattr(connection, "ANSWER_WITHIN", 0.5)
    assert received(port, close, pause=3) < SIZE

"""The gate before the routes: who may ask, a line for what fails, counts, and answers before a body has come."""

import asyncio
import hmac
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from export.browser.page import SCRIPTS
from export.serving.limits import ANSWER_WITHIN
from export.serving.metrics import Metrics
from export.serving.service import error_answer

LINGER = 2.0
"Seconds in which the rest of a body is taken in after its answer; a connection closed at once would lose the answer."

OPEN = ("/", *(f"/{name}" for name in SCRIPTS), "/docs", "/openapi.json", "/v2/health/live", "/v2/health/ready")
"Paths that need no token: they tell nothing about photos."


@dataclass(frozen=True)
class Access:
    """Who may ask: those with the token, or if there is none, programs on this machine.

    hosts: the names by which the service may be called without a token. Another name is that of a web page whose
    author made it lead to this machine (DNS rebinding).
    """

    token: str | None
    hosts: frozenset[str]

    def check(self, path: str, headers: Headers) -> None:
        "Raises HTTPException 401, 403 or 421 if the request may not be answered."
        if self.token is not None:
            given = headers.get("authorization", "").encode("latin-1")
            if path not in OPEN and not hmac.compare_digest(given, b"Bearer " + self.token.encode()):
                raise HTTPException(
                    401, "needs the header `Authorization: Bearer TOKEN`", {"WWW-Authenticate": "Bearer"}
                )
            return
        if (host := _name(headers.get("host", ""))) not in self.hosts:
            raise HTTPException(421, f"the service is not called {host:.100}: ask for {', '.join(sorted(self.hosts))}")
        # SCHEME://HOST:PORT, or null
        if (origin := headers.get("origin")) is not None and _name(origin.partition("://")[2]) not in self.hosts:
            raise HTTPException(403, "a web page of another site may not ask without a token")


def _name(host: str) -> str:
    "A host without its port."
    name, _, port = host.rpartition(":")
    return (name if name and port.isdecimal() else host).lower()


def guarded(app: ASGIApp, access: Access, metrics: Metrics, paths: frozenset[str]) -> ASGIApp:
    "The application, answering only who has access. paths: those that are counted by name."

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        started, path = time.perf_counter(), scope["path"] if scope["path"] in paths else "other"
        answer = Answer(scope, receive, send)

        async def refused(refusal: HTTPException) -> None:
            if not answer.status:
                await error_answer(refusal)(scope, answer.receive, answer.send)

        try:
            try:
                access.check(scope["path"], Headers(scope=scope))
                # with an `app` Starlette's router raises 404 and 405, else it answers them as text
                await app(scope | {"app": app}, answer.receive, answer.send)
            except HTTPException as refusal:
                await refused(refusal)
        except (ClientDisconnect, TimeoutError):  # it left, or does not take its answer: uvicorn closes
            answer.status = 499
        except asyncio.CancelledError:  # a second Ctrl-C, or it took too long to drain
            await refused(HTTPException(503, "the service has stopped"))
            raise
        except Exception as error:
            print_error(error)
            await refused(HTTPException(500, "the service failed: its own messages say why"))
        metrics.requests.labels(path, answer.status).inc()
        metrics.seconds.labels(path).observe(time.perf_counter() - started)

    return guard


class Answer:
    "The answer to a request: its status, and how much of the request's body has come."

    def __init__(self, scope: Scope, receive: Receive, send: Send):
        headers = Headers(scope=scope)
        self.body_left = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
        self.status, self._receive, self._send = 0, receive, send

    async def receive(self) -> Message:
        message = await self._receive()
        self.body_left = self.body_left and message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Send a part of the answer. If a part of the body has not come, the connection is closed behind the answer.

        Raises TimeoutError if the client does not take it in time.
        """
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self.body_left:
                message = message | {"headers": [*message["headers"], (b"connection", b"close")]}
        last = message["type"] == "http.response.body" and not message.get("more_body", False)
        async with asyncio.timeout(ANSWER_WITHIN):
            if not (last and self.body_left):
                await self._send(message)
                return
            await self._send(message | {"more_body": True})
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                while self.body_left:
                    await self.receive()
        await self._send({"type": "http.response.body", "body": b""})


def print_error(error: Exception) -> None:
    "One line on stderr: the error and where it was raised."
    frame = traceback.extract_tb(error.__traceback__)[-1]
    reason = (str(error).splitlines() or [""])[0]
    print(f"error: {type(error).__name__}: {reason} ({frame.name}, line {frame.lineno})", file=sys.stderr, flush=True)

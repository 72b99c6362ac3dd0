"""A connection of uvicorn's that bounds what uvicorn does not: headers, their time, and the number of connections.

uvicorn 0.54 closes a connection that idles between two requests. It waits for ever for the first request's headers,
for a request that comes a byte at a time, and for a client that does not take its answer; its parser httptools
gathers a header of any length.
"""

import asyncio
import json
from http import HTTPStatus

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from export.serving.limits import ANSWER_WITHIN, CONNECTIONS, HEADER_BYTES, HEADERS_WITHIN

CHECK_EVERY = 2.0
"Seconds between two looks at a connection's age."


class Connection(HttpToolsProtocol):
    """One connection. since: when it began to wait for a request. steps: headers and bodies that are complete.
    heading: bytes that came while headers were incomplete. size: bytes of the header fields of this request. closing:
    when it was first seen to close.
    """

    since, in_headers, heading, steps, size = 0.0, True, 0, 0, 0
    timer: asyncio.TimerHandle | None = None
    closing: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self.since = self.loop.time()
        if len(self.connections) > CONNECTIONS:
            self.refuse(HTTPStatus.SERVICE_UNAVAILABLE, f"{CONNECTIONS} connections are open: try again")
        self.timer = self.loop.call_later(CHECK_EVERY, self._check)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.timer:
            self.timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        before = self.steps
        super().data_received(data)
        self.heading = self.heading + len(data) if self.in_headers and self.steps == before else 0
        if self.heading > HEADER_BYTES and not self.transport.is_closing():
            self._too_large()

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self.size += len(name) + len(value)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.size = 0

    def on_headers_complete(self) -> None:
        self.in_headers, self.steps = False, self.steps + 1
        if self.size + len(self.url) > HEADER_BYTES:  # all of them came in one piece
            self._too_large()
            raise ValueError("headers too large")  # ends the parser
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self.in_headers, self.steps = True, self.steps + 1

    def on_response_complete(self) -> None:
        self.since = self.loop.time()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        if not self.transport.is_closing():
            self.refuse(HTTPStatus.BAD_REQUEST, "not an HTTP request that is read")

    def refuse(self, status: HTTPStatus, reason: str) -> None:
        "Answer at once and close."
        body = json.dumps({"error": reason}).encode()
        lines = [f"HTTP/1.1 {status.value} {status.phrase}", "content-type: application/json"]
        lines += [f"content-length: {len(body)}", "connection: close", "", ""]
        if self.cycle is None or not self.cycle.response_started or self.cycle.response_complete:
            self.transport.write("\r\n".join(lines).encode() + body)
        self.transport.close()

    def _too_large(self) -> None:
        self.refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"more than {HEADER_BYTES:,} bytes of headers")

    def _check(self) -> None:
        "Close a connection that waits too long for a request; cut one that should be closed by now."
        waits = self.cycle is None or self.cycle.response_complete
        if self.transport.is_closing():
            self.closing = self.loop.time() if self.closing is None else self.closing
            late = self.loop.time() - self.closing > ANSWER_WITHIN
            if late or not self.transport.get_write_buffer_size():  # the rest of an answer may still be in it
                self.transport.abort()
        elif waits and self.loop.time() - self.since > HEADERS_WITHIN:
            self.refuse(HTTPStatus.REQUEST_TIMEOUT, f"no request within {HEADERS_WITHIN} seconds")
        self.timer = self.loop.call_later(CHECK_EVERY, self._check)

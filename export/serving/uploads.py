"""A request's body -> photos: one photo's bytes, a form with files, or JSON with base64."""

import asyncio
import base64
import binascii
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from python_multipart.multipart import File, FormParser, parse_options_header
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from export.serving.limits import BODY_WITHIN, IN_MEMORY
from toolkit.files import parse_json

RAW = ("", "application/octet-stream", "application/x-www-form-urlencoded")
"Types of a body that is a photo, beside image/*: none, the usual one, and the one that curl's --data-binary sends."

VALUES, BRACKETS = 2_000_000, 1_000_000
"The most commas, and opening brackets, in JSON: each value takes many times its bytes in memory."

BUSY = {"Retry-After": "1"}


class Upload(NamedTuple):
    "A photo of a request; `name` is its file name in a form, else None."

    name: str | None
    data: bytes


class Uploads:
    "Reads the bodies of requests, and counts their bytes while they are in memory."

    def __init__(self, max_bytes: int, max_photos: int):
        self.max_bytes, self.max_photos, self.held = max_bytes, max_photos, 0
        self.parser = ThreadPoolExecutor(1, "parser")  # one body at a time, because parsed it is larger

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """The body, which counts as held until the block ends.

        Raises HTTPException: 413 if it is too large, 408 if too slow, 400 if empty, 503 if memory is short;
        ClientDisconnect if the connection was cut.
        """
        if int(request.headers.get("content-length", 0)) > self.max_bytes:
            raise self._too_large()
        chunks: list[bytes] = []
        try:
            try:
                async with asyncio.timeout(BODY_WITHIN):
                    await self._read(request, chunks)
            except TimeoutError:
                raise HTTPException(408, f"the body took more than {BODY_WITHIN} seconds: send it faster") from None
            if not any(chunks):
                raise HTTPException(400, "the body is empty: send a photo, as `curl --data-binary @photo.jpg` does")
            yield b"".join(chunks)
        finally:
            self.held -= sum(map(len, chunks))

    async def _read(self, request: Request, chunks: list[bytes]) -> None:
        "Append the parts of the body to `chunks`."
        size, more = 0, True
        while more:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            chunk, more = message.get("body", b""), message.get("more_body", False)
            chunks.append(chunk)
            self.held += len(chunk)
            size += len(chunk)
            if size > self.max_bytes:
                raise self._too_large()
            if self.held > IN_MEMORY * self.max_bytes:
                raise HTTPException(503, "too many uploads at a time: try again", BUSY)

    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"the body is larger than {self.max_bytes:,} bytes: send smaller or fewer photos")

    async def photos(self, request: Request, body: bytes) -> list[Upload]:
        """The photos in a body, by its Content-Type.

        Raises HTTPException: 415 for another type, 413 for too many photos, 400 if it is not what its type says.
        """
        kind, options = parse_options_header(request.headers.get("content-type"))
        kind = kind.decode("latin-1")
        if kind in RAW or kind.startswith("image/"):
            if body[:1] == b"{":
                raise HTTPException(400, "the body is JSON: send it with the header Content-Type: application/json")
            return [Upload(None, body)]
        if kind == "multipart/form-data":
            photos = await self.parsed(files_of_form, body, options.get(b"boundary"), self.max_photos)
        elif kind == "application/json":
            photos = await self.parsed(photos_of_json, body)
        else:
            raise HTTPException(
                415, f"{kind:.100}: send a photo's bytes as image/*, files as multipart/form-data, or JSON"
            )
        if not photos:
            raise HTTPException(400, "no photos: a form has files, JSON a list `photos`")
        self.check_count(len(photos))
        return photos

    def check_count(self, photos: int) -> None:
        "Raises HTTPException for more photos than a request may have."
        if photos > self.max_photos:
            raise HTTPException(413, f"more than {self.max_photos} photos in a request: send several requests")

    async def parsed(self, function: Any, *arguments: Any) -> Any:
        "function(*arguments), called in the thread that parses. Raises HTTPException 400 for its ValueError."
        try:
            return await asyncio.get_running_loop().run_in_executor(self.parser, function, *arguments)
        except ValueError as error:
            raise HTTPException(400, str(error)) from None


def files_of_form(body: bytes, boundary: bytes | None, most: int) -> list[Upload]:
    "The files of a form, `most` + 1 at most. Raises ValueError if it is damaged or has other fields."
    files: list[File] = []
    fields, ended = [], []

    def add(file: File) -> None:
        files.append(file)
        if len(files) > most:
            raise _Enough

    try:
        config = {"MAX_MEMORY_FILE_SIZE": len(body) + 1}  # none goes to a temporary file
        form = FormParser("multipart/form-data", fields.append, add, lambda: ended.append(True), boundary, None, config)
        form.write(body)
        form.finalize()
    except _Enough:
        pass
    except Exception as error:  # beside its own errors the parser has assertions
        raise ValueError(f"the form can't be read ({str(error).strip() or type(error).__name__:.200})") from error
    else:
        if not ended:
            raise ValueError("the form is cut short")
    if fields:
        raise ValueError("the form has a field that is no file: send photos alone, as `curl -F photo=@photo.jpg` does")
    return [Upload((file.file_name or b"").decode("utf-8", "replace"), _content(file)) for file in files]


class _Enough(Exception):
    "More files than a request may have."


def _content(file: File) -> bytes:
    file.file_object.seek(0)
    return file.file_object.read()


def photos_of_json(body: bytes) -> list[Upload]:
    'The photos of {"photos": [base64, ...]}. Raises ValueError for anything else.'
    value = checked_json(body)
    if not isinstance(value, dict) or value.keys() != {"photos"} or not isinstance(value["photos"], list):
        raise ValueError('the JSON is not {"photos": [base64, ...]}')
    return [Upload(None, from_base64(each)) for each in value["photos"]]


def checked_json(body: bytes) -> Any:
    "The value of strict JSON in UTF-8. Raises ValueError if it is none, or has more values than fit in memory."
    if body.count(b",") > VALUES or body.count(b"[") + body.count(b"{") > BRACKETS:
        raise ValueError(f"the JSON has more than {VALUES:,} values or {BRACKETS:,} lists: send binary data instead")
    try:
        return parse_json(body.decode())
    except ValueError as error:  # also UnicodeDecodeError
        raise ValueError(f"not JSON that is read ({str(error):.200})") from error


def from_base64(text: Any) -> bytes:
    "The bytes of a base64 text. Raises ValueError for anything else."
    try:
        if isinstance(text, str):
            return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        pass
    raise ValueError(f"a photo in JSON is a base64 text, not {text!r:.40}")

"""Requests that a service must refuse and survive, for its tests and for tests/bench/serving.py."""

import base64
import io
import json
import socket
import struct
import time
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

Kind = bytes | Callable[[socket.socket], None]
"Bytes to send, or a function that sends."

SLOW = ["slow headers", "slow body", "nothing"]
"Kinds that take seconds: the service waits for the rest of the request."

NO_ANSWER = ["cut in the headers", "cut in the body", "reset in the body", "nothing"]
"Kinds whose client leaves, or may be left, without an answer."


def expected(name: str) -> set[int | None]:
    return set(range(400, 500)) | ({None} if name in NO_ANSWER else set())


def post(body: bytes, kind: str | None = "image/jpeg", path: str = "/predict", *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *headers]
    lines += [f"Content-Type: {kind}"] if kind else []
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def get(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", *(headers or ["Host: localhost"]), "", ""]).encode("latin-1")


def jpeg(side: int = 64, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)).save(file, "JPEG", **options)
    return file.getvalue()


def png_of(width: int, height: int) -> bytes:
    "A PNG that claims so many pixels, black ones, of which the first rows follow."

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = zlib.compress(bytes(min(height, 50) * (1 + 3 * width)))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def scans(count: int) -> bytes:
    "A progressive JPEG of 992 x 992 pixels with its last scan `count` times."
    data = jpeg(992, progressive=True, quality=5)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * count + b"\xff\xd9"


def form(*parts: bytes, end: bytes = b"--X--\r\n") -> bytes:
    return b"".join(b"--X\r\n" + part + b"\r\n" for part in parts) + end


def file_part(content: bytes, name: bytes = b"a.jpg") -> bytes:
    return b'Content-Disposition: form-data; name="a"; filename="' + name + b'"\r\n\r\n' + content


def tensor(**changes) -> bytes:
    given = {"name": "image", "datatype": "UINT8", "shape": [1, 28, 28, 3], "data": [0] * 28 * 28 * 3} | changes
    return json.dumps({"inputs": [given]}).encode()


def kinds() -> dict[str, Kind]:
    "Hostile requests by name. The service they are for takes 2 MB and 1,000,000 pixels, and its model is called tiny."
    photo, form_kind, infer = jpeg(), "multipart/form-data; boundary=X", "/v2/models/tiny/infer"
    to_json = lambda text: post(text.encode(), "application/json")  # noqa: E731
    to_infer = lambda body, *headers: post(body, "application/json", infer, *headers)  # noqa: E731
    return {
        # broken photos and bombs
        "a photo cut short": post(photo[: len(photo) // 2]),
        "a photo's header alone": post(photo[:300]),
        "noise": post(np.random.default_rng(1).bytes(5000)),
        "text": post(b"no photo at all"),
        "nothing in the body": post(b""),
        "a script": post(b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>", "image/svg+xml"),
        "PostScript": post(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n", "image/eps"),
        "a PNG of 900 megapixels": post(png_of(30_000, 30_000), "image/png"),
        "a PNG of 2 megapixels": post(png_of(2000, 1000), "image/png"),
        "a JPEG of 4 gigapixels": post(photo.replace(struct.pack(">HH", 64, 64), struct.pack(">HH", 65500, 65500))),
        "a JPEG of 300 scans": post(scans(300)),
        "a GIF of 4 gigapixels": post(b"GIF89a" + struct.pack("<HH", 65535, 65535) + bytes(30), "image/gif"),
        "a broken TIFF": post(b"II*\0\x08\0\0\0\xff\xff" + bytes(range(256)) * 8, "image/tiff"),
        # wrong types
        "HTML": post(photo, "text/html"),
        "a type of 5,000 letters": post(photo, "x" * 5000),
        "JSON cut short": to_json('{"photos": ["'),
        "JSON of another shape": to_json('{"images": []}'),
        "JSON with NaN": to_json('{"photos": [NaN]}'),
        "JSON 100,000 deep": to_json("[" * 100_000),
        "JSON of a million lists": to_json('{"photos": [' + "[]," * 650_000 + "[]]}"),
        "JSON with a huge number": to_json('{"photos": [' + "9" * 100_000 + "]}"),
        "JSON in Latin-1": post(b'{"photos": ["\xe9"]}', "application/json"),
        "JSON without photos": to_json('{"photos": []}'),
        "base64 that is none": to_json('{"photos": ["not base64!"]}'),
        "base64 of no photo": to_json(json.dumps({"photos": [base64.b64encode(b"text").decode()]})),
        "a form without boundary": post(form(file_part(photo)), "multipart/form-data"),
        "a form cut short": post(form(file_part(photo), end=b""), form_kind),
        "a form without files": post(form(), form_kind),
        "a form with a field": post(form(b'Content-Disposition: form-data; name="a"\r\n\r\n1'), form_kind),
        "a form of 10,000 files": post(form(*[file_part(b"x")] * 10_000), form_kind),
        "a form with a part without headers": post(form(b"\r\nx"), form_kind),
        "a form with a boundary of 5,000 letters": post(b"x", f"multipart/form-data; boundary={'X' * 5000}"),
        "a form of broken photos": post(form(file_part(b"x"), file_part(b"y", b"../../etc/passwd")), form_kind),
        # the Open Inference Protocol
        "an inference without inputs": to_infer(b"{}"),
        "an inference of an unknown input": to_infer(tensor(name="audio")),
        "a tensor of another shape": to_infer(tensor(shape=[1, 3, 28, 28])),
        "a tensor of a huge shape": to_infer(tensor(shape=[2**62, 28, 28, 3])),
        "a tensor with too few values": to_infer(tensor(data=[0])),
        "a tensor of floats": to_infer(tensor(data=[0.5] * 28 * 28 * 3)),
        "a tensor of texts": to_infer(tensor(data=["x" * 100_000, *[""] * 2351])),
        "a tensor out of range": to_infer(tensor(data=[256] * 28 * 28 * 3)),
        "binary data that are missing": to_infer(tensor(), "Inference-Header-Content-Length: 999999"),
        "binary data of a negative length": to_infer(tensor(), "Inference-Header-Content-Length: -1"),
        # paths, methods, headers
        "an unknown path": get("/admin"),
        "a path upwards": get("/../../../../etc/passwd"),
        "a path upwards, encoded": get("/%2e%2e/%2e%2e/etc/passwd%00"),
        "another method": b"DELETE /predict HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "no photo by GET": get("/predict"),
        "top=0": post(photo, "image/jpeg", "/predict?top=0"),
        "top of 5,000 digits": post(photo, "image/jpeg", f"/predict?top={'9' * 5000}"),
        "another host": get("/docs", "Host: evil.example"),
        "no host": b"GET /docs HTTP/1.1\r\n\r\n",
        "another site's page": post(photo, "image/jpeg", "/predict", "Origin: https://evil.example"),
        "an origin that is none": get("/docs", "Host: localhost", "Origin: http://["),
        "a page without an origin": get("/docs", "Host: localhost", "Origin: null"),
        "an upgrade": get("/predict", "Host: localhost", "Connection: Upgrade", "Upgrade: websocket"),
        "an upgrade with a body": post(b"x", "image/jpeg", "/predict", "Connection: Upgrade", "Upgrade: h2c"),
        "a tunnel": b"CONNECT example.com:443 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "requests in a row": get("/admin", "Host: localhost") * 500,
        "a huge header": get("/docs", "Host: localhost", "X-A: " + "a" * 100_000),
        "a header without end": lambda s: trickle(s, b"GET /docs HTTP/1.1\r\nX-A: " + b"a" * 400_000, 50_000),
        "10,000 headers": get("/docs", "Host: localhost", *[f"X-{n}: {n}" for n in range(10_000)]),
        "a huge path": get("/" + "a" * 100_000),
        "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        "HTTP/9": b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
        "a negative length": b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        "a length of words": b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: many\r\n\r\n",
        "two lengths": post(photo, "image/jpeg", "/predict", "Content-Length: 7"),
        "a length and chunks": post(photo, "image/jpeg", "/predict", "Transfer-Encoding: chunked"),
        "a header with a newline": get("/docs", "Host: localhost", "X-A: a\rb\nc"),
        # sizes
        "a length of 2 GB": b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000000000\r\n\r\n",
        "3 MB": post(bytes(3_000_000)),
        "chunks of 3 MB": chunked(b"%x\r\n" % 30_000 + bytes(30_000) + b"\r\n", 100),
        "chunks that are none": chunked(b"zz\r\nphoto\r\n", 1),
        # slow and cut connections
        "cut in the headers": b"POST /predict HTT",
        "cut in the body": post(photo)[:-100],
        "reset in the body": reset,
        "slow headers": lambda s: trickle(s, get("/docs", "Host: localhost", "X-A: " + "a" * 30)[:-2], 1, 0.5),
        "slow body": lambda s: trickle(s, post(photo), 40, 0.9),
        "nothing": b"",
    }


def chunked(chunk: bytes, count: int) -> bytes:
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + chunk * count + b"0\r\n\r\n"


def trickle(connection: socket.socket, data: bytes, piece: int, pause: float = 0.0) -> None:
    for at in range(0, len(data), piece):
        connection.sendall(data[at : at + piece])
        time.sleep(pause)


def reset(connection: socket.socket) -> None:
    "Send half a photo and leave with a reset in place of an end."
    connection.sendall(post(jpeg())[:-500])
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def status_of(port: int, kind: Kind) -> int | None:
    "The status of the answer; None if the connection ends without one."
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            try:
                connection.sendall(kind) if isinstance(kind, bytes) else kind(connection)
                if connection.fileno() >= 0:
                    connection.shutdown(socket.SHUT_WR) if cut(kind) else None
            except (BrokenPipeError, ConnectionResetError):
                pass  # the answer may have come before the end of the request
            head = connection.recv(4096) if connection.fileno() >= 0 else b""
    except ConnectionResetError:
        return None
    return int(head.split()[1]) if head.startswith(b"HTTP/1.1 ") else None


def cut(kind: Kind) -> bool:
    "True for a request that ends before its end: its client leaves."
    return isinstance(kind, bytes) and (kind.endswith(b"HTT") or kind == post(jpeg())[:-100])


def good(port: int) -> int | None:
    return status_of(port, post(jpeg()))


def metrics(port: int) -> dict[str, float]:
    "The figures of /metrics, by name with its labels."
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(get("/metrics", "Host: localhost", "Connection: close"))
        text = b"".join(iter(lambda: connection.recv(65536), b"")).decode().partition("\r\n\r\n")[2]
    lines = [line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}

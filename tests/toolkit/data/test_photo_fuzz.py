"""Thousands of damaged photos, in a separate process: each is read or refused; no crash, no hang, bounded memory.

A longer search, with other seeds and formats:

    python -m tests.toolkit.data.test_photo_fuzz SEED COUNT PROGRESS [FORMAT ...]
"""

import faulthandler
import io
import json
import random
import re
import resource
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from toolkit.data.photo import read_photo

REPOSITORY = Path(__file__).resolve().parents[3]
SECONDS = 30  # for one file of 64 x 48; the slowest takes milliseconds, but a header may claim 178 megapixels
MEMORY = 3 << 30  # bytes of address space: what 178 megapixels take as RGB, twice over, and Python
FRAMES = {"save_all": True, "append_images": [Image.new("RGB", (64, 48), "blue")] * 3}


def picture(mode: str = "RGB") -> Image.Image:
    "A photo of 64 x 48, two slopes with noise, in any of Pillow's modes."
    down, across = np.mgrid[:48, :64]
    noise = np.random.default_rng(0).integers(0, 60, (48, 64, 3))
    colours = np.stack([down * 4, across * 3, down + across], 2) + noise
    rgb = Image.fromarray(colours.clip(0, 255).astype(np.uint8))
    if mode == "RGBA":
        rgb.putalpha(Image.fromarray((across * 4).astype(np.uint8)))
    if mode == "I;16":
        return Image.fromarray((down * 900 + across).astype(np.uint16))
    return rgb if mode in ("RGB", "RGBA") else rgb.convert(mode)


def encoded(kind: str, mode: str = "RGB", **options: object) -> bytes:
    file = io.BytesIO()
    picture(mode).save(file, kind, **options)
    return file.getvalue()


def oriented() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    return exif


def interlaced() -> bytes:
    "An interlaced PNG (Adam7), which Pillow reads but does not write: seven passes of unfiltered rows."
    pixels, rows = np.asarray(picture()), []
    for top, left, down, across in (
        (0, 0, 8, 8),
        (0, 4, 8, 8),
        (4, 0, 8, 4),
        (0, 2, 4, 4),
        (2, 0, 4, 2),
        (0, 1, 2, 2),
        (1, 0, 2, 1),
    ):
        rows += [b"\0" + row.tobytes() for row in pixels[top::down, left::across]]
    header = struct.pack(">IIBBBBB", 64, 48, 8, 2, 0, 0, 1)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*pair) for pair in chunks)


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "JPEG": lambda: [
        encoded("JPEG"),
        encoded("JPEG", "L"),
        encoded("JPEG", progressive=True),
        encoded("JPEG", exif=oriented()),
        encoded("JPEG", "CMYK"),
        encoded("JPEG", subsampling=0, restart_marker_blocks=2, icc_profile=b"x" * 300),
    ],
    "PNG": lambda: [
        encoded("PNG"),
        encoded("PNG", "RGBA", exif=oriented()),
        encoded("PNG", "P", transparency=3),
        encoded("PNG", "I;16"),
        encoded("PNG", "LA"),
        encoded("PNG", "1"),
        interlaced(),
    ],
    "WEBP": lambda: [
        encoded("WEBP"),
        encoded("WEBP", lossless=True),
        encoded("WEBP", "RGBA"),
        encoded("WEBP", exif=oriented(), icc_profile=b"x" * 300),
        encoded("WEBP", **FRAMES),
    ],
    "TIFF": lambda: [
        encoded("TIFF", mode, compression=compression)
        for mode, compression in (
            ("RGB", None),
            ("RGBA", "tiff_lzw"),
            ("L", "packbits"),
            ("RGB", "jpeg"),
            ("P", "tiff_adobe_deflate"),
            ("1", "group4"),
            ("I;16", "tiff_lzw"),
            ("RGB", "zstd"),
            ("CMYK", None),
        )
    ],
    "GIF": lambda: [encoded("GIF"), encoded("GIF", **FRAMES), encoded("GIF", "P", transparency=3, comment=b"a" * 300)],
    "BMP": lambda: [encoded("BMP"), encoded("BMP", "RGBA"), encoded("BMP", "P"), encoded("BMP", "1")],
    "AVIF": lambda: [encoded("AVIF", speed=10), encoded("AVIF", "RGBA", speed=10, exif=oriented())],
    "JPEG2000": lambda: [
        encoded("JPEG2000"),
        encoded("JPEG2000", "LA"),
        encoded("JPEG2000", no_jp2=True, tile_size=(32, 32)),
    ],
    "PPM": lambda: [encoded("PPM"), encoded("PPM", "L"), encoded("PPM", "1"), encoded("PPM", "I;16")],
}


# The mutator: one damaged file of (the whole files, a random generator), the same for the same seed


EXTREMES = (0, 1, 2, 7, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def flip_bits(data: bytearray, draw: random.Random, others: list[bytes]) -> None:
    for _ in range(draw.choice((1, 1, 2, 8, 40))):
        data[_place(data, draw)] ^= 1 << draw.randrange(8)


def overwrite_a_run(data: bytearray, draw: random.Random, others: list[bytes]) -> None:
    at, length = _place(data, draw), draw.randint(1, 64)
    run = draw.choice((bytes(length), b"\xff" * length, draw.randbytes(length)))
    data[at : at + length] = run[: len(data) - at]


def cut_short(data: bytearray, draw: random.Random, others: list[bytes]) -> None:
    del data[_place(data, draw) :]


def splice(data: bytearray, draw: random.Random, others: list[bytes]) -> None:
    "A piece of another file, or of this one, put over a piece or between two; or a piece removed."
    other = draw.choice((*others, bytes(data)))
    start = draw.randrange(len(other))
    piece = other[start : start + draw.choice((0, 16, 200, len(other)))]
    at = _place(data, draw)
    data[at : at + draw.choice((0, len(piece), draw.randint(0, 100)))] = piece


def edit_a_length(data: bytearray, draw: random.Random, others: list[bytes]) -> None:
    "A changed length of a JPEG segment, a PNG chunk or a RIFF chunk; in other formats, of whatever stands there."
    if data[:2] == b"\xff\xd8":
        fields = [(found.start() + 2, ">H") for found in re.finditer(rb"\xff[\xc0-\xfe]", data[2:-8])]
        fields = [(at + 2, kind) for at, kind in fields]
    elif data[1:4] == b"PNG":
        fields = [(found.start() - 4, ">I") for found in re.finditer(rb"IHDR|PLTE|tRNS|IDAT|eXIf|IEND", data)]
    elif data[:4] == b"RIFF":
        fields = [(found.end(), "<I") for found in re.finditer(rb"RIFF|VP8[ LX]|ALPH|EXIF|ANIM|ANMF|ICCP", data)]
    else:
        fields = []
    at, kind = draw.choice(fields or [(_place(data, draw), draw.choice((">H", ">I", "<H", "<I")))])
    size = struct.calcsize(kind)
    if 0 <= at <= len(data) - size:
        (old,) = struct.unpack_from(kind, data, at)
        new = draw.choice((old + 1, old - 1, old * 2, draw.choice(EXTREMES)))
        _put(data, at, kind, new % (1 << 8 * size))


def edit_the_size(data: bytearray, draw: random.Random, others: list[bytes]) -> None:
    "Other width and height, at the place that the format's header has them."
    sizes = (0, 1, 47, 49, 63, 65, 128, 500) if draw.random() < 0.97 else (1, 3000, 16383, 65535)
    width, height = draw.choice(sizes), draw.choice(sizes)
    if found := re.search(rb"\xff[\xc0-\xc2]\x00.\x08", data, re.DOTALL):
        _put(data, found.end(), ">HH", height, width)
    elif (at := data.find(b"IHDR")) > 0:
        scale = draw.choice((1, 1, 1, 2**15))
        _put(data, at + 4, ">II", width * scale, height * scale)
    elif (at := data.find(b"VP8X")) > 0:
        _put(data, at + 12, "<HBHB", width, 0, height, 0)
    elif (at := data.find(b"VP8 ")) > 0:
        _put(data, at + 14, "<HH", width, height)
    elif (at := data.find(b"VP8L")) > 0:
        _put(data, at + 9, "<I", (width & 0x3FFF) | (height & 0x3FFF) << 14)
    elif data[:3] == b"GIF":
        _put(data, 6, "<HH", width, height)
    elif data[:2] == b"BM":
        _put(data, 18, "<ii", width, draw.choice((1, -1)) * height)
    else:
        flip_bits(data, draw, others)


def _put(data: bytearray, at: int, kind: str, *values: int) -> None:
    if at + struct.calcsize(kind) <= len(data):
        struct.pack_into(kind, data, at, *values)


MUTATIONS = (flip_bits, overwrite_a_run, cut_short, splice, edit_a_length, edit_the_size)


def _place(data: bytearray, draw: random.Random) -> int:
    "A random offset; half the time near the start, where headers are."
    return draw.randrange(max(1, len(data) if draw.random() < 0.5 else min(len(data), 80)))


def mutated(whole: list[bytes], seed: object) -> bytes:
    "One of the files after one to three mutations. Most PNGs get right checksums: else none would pass."
    draw = random.Random(repr(seed))
    data = bytearray(draw.choice(whole))
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        if len(data) > 8:
            draw.choice(MUTATIONS)(data, draw, whole)
    return _with_checksums(data) if data[1:4] == b"PNG" and draw.random() < 0.8 else bytes(data)


def _with_checksums(data: bytearray) -> bytes:
    at = 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        if at + 12 + length > len(data):
            break
        struct.pack_into(">I", data, at + 8 + length, zlib.crc32(data[at + 4 : at + 8 + length]))
        at += 12 + length
    return bytes(data)


# The search


def search(seed: int, count: int, progress: Path, formats: list[str]) -> dict[str, dict[str, int]]:
    """Count how many mutated files of each format were read and refused. Any other outcome raises.

    progress: a file that holds which one is being read, for the one who finds this process dead.
    """
    found = {kind: Counter() for kind in formats}
    slowest = (0.0, "")
    with progress.open("wb", buffering=0) as at_work:
        for kind in formats:
            whole = SEEDS[kind]()
            for index in range(count):
                name = f"{kind} seed {seed} index {index}"
                at_work.seek(0)
                at_work.write(name.ljust(60).encode())
                data = mutated(whole, (seed, kind, index))
                started = time.perf_counter()
                faulthandler.dump_traceback_later(SECONDS, exit=True)
                found[kind][_outcome(data, lenient=index % 4 == 0, name=name)] += 1
                slowest = max(slowest, (time.perf_counter() - started, name))
    faulthandler.cancel_dump_traceback_later()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"found": found, "slowest": slowest, "peak_mib": peak}


def _outcome(data: bytes, lenient: bool, name: str) -> str:
    try:
        photo = read_photo(data, lenient)
    except ValueError as error:
        if str(error).startswith("<bytes>: "):
            return "refused"
        error.add_note(name)
        raise
    except BaseException as error:
        error.add_note(name)
        raise
    assert photo.dtype == np.uint8, name
    assert photo.ndim == 3 and photo.shape[2] == 3 and photo.size, (name, photo.shape)  # noqa: PT018
    return "read"


def searched(
    seed: int,
    count: int,
    folder: Path,
    formats: list[str],
    program: tuple = ("-m", "tests.toolkit.data.test_photo_fuzz"),
) -> dict:
    "The search in a separate process: a crash is then an exit status, and a hang a traceback."
    progress = folder / "progress"
    done = subprocess.run(
        [sys.executable, *program, str(seed), str(count), str(progress), *formats],
        capture_output=True,
        text=True,
        errors="replace",
        cwd=REPOSITORY,
    )
    assert done.returncode == 0, f"died of {done.returncode} at {progress.read_text()}\n{done.stderr[-3000:]}"
    return json.loads(done.stdout)


@pytest.mark.parametrize("each", [700, pytest.param(6700, marks=pytest.mark.long)])
def test_thousands_of_damaged_photos_are_read_or_refused_without_crash_hang_or_flood_of_memory(tmp_path, each):
    "20,000 of them in the long test."
    report = searched(0, each, tmp_path, ["JPEG", "PNG", "WEBP"])
    for kind, outcomes in report["found"].items():
        assert outcomes["read"] > each / 14, (kind, outcomes)
        assert outcomes["refused"] > each / 14, (kind, outcomes)
    assert report["peak_mib"] < 2500


def test_damaged_photos_of_other_formats_are_read_or_refused_too(tmp_path):
    report = searched(0, 250, tmp_path, ["TIFF", "GIF", "BMP", "AVIF", "JPEG2000", "PPM"])
    assert all(min(outcomes["read"], outcomes["refused"]) > 20 for outcomes in report["found"].values()), report


def test_the_mutator_repeats_itself_and_every_file_it_starts_from_is_read():
    for kind, make in SEEDS.items():
        whole = make()
        assert [mutated(whole, (kind, i)) for i in range(50)] == [mutated(whole, (kind, i)) for i in range(50)]
        assert len({mutated(whole, (kind, i)) for i in range(50)}) > 45
        assert all(sorted(read_photo(data).shape) == [3, 48, 64] for data in whole), kind


@pytest.mark.parametrize(
    ("body", "sign"), [("os._exit(139)", "died of 139 at JPEG seed 5 index 0"), ("time.sleep(9)", "Timeout")]
)
def test_the_search_notices_a_crash_and_a_hang(tmp_path, body, sign):
    code = (
        "import os, sys, time; from pathlib import Path; from tests.toolkit.data import test_photo_fuzz as search\n"
        f"def broken(data, lenient): {body}\n"
        "search.read_photo, search.SECONDS = broken, 1\n"
        "search.search(5, 3, Path(sys.argv[3]), ['JPEG'])"
    )
    with pytest.raises(AssertionError, match=sign):
        searched(5, 3, tmp_path, ["JPEG"], ("-c", code))


if __name__ == "__main__":
    seed, count, progress, *formats = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    print(json.dumps(search(int(seed), int(count), Path(progress), formats or list(SEEDS))))

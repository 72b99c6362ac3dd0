"""Any image file -> uint8 RGB array, or an error that names the file.

An ordinary JPEG (8 bits, grey or colour, complete, within MAX_PIXELS) is decoded by OpenCV's libjpeg-turbo; everything
else is read by Pillow. Both give the same pixels, those of Pillow's `exif_transpose` and `convert("RGB")`, with one
difference on purpose: transparent pixels are laid over white.
"""

import io
import os
import re
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageOps

MAX_PIXELS = 178_956_970
"""Largest photo that is decoded, width times height: Pillow's own limit against decompression bombs, 512 MiB as RGB."""

SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .mpo .png .apng .webp .bmp .dib .gif .tif .tiff .ppm .pgm .pbm .pnm .avif .jp2 .j2k".split()
)
"""What `find_photos` takes for a photo, in lower or upper case."""

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000")
"""What Pillow may open: raster formats only, none whose reader starts another program (EPS) or draws (WMF)."""


def read_photo(source: str | Path | bytes, lenient: bool = False) -> np.ndarray:
    """The photo as uint8 [height, width, 3], RGB, turned upright by its EXIF orientation, its first frame if animated.

    source: a path, or the bytes of a file.
    lenient: read a JPEG that is cut short as far as it goes (what is missing is grey) instead of refusing it.

    Transparent pixels are laid over white; grey of 16 bits keeps its upper 8, as Pillow does for colour of 16 bits.
    Raises FileNotFoundError where there is no such file, and ValueError, naming the file, where it can't be read.
    """
    data, name = (source, "<bytes>") if isinstance(source, bytes) else (_file_bytes(Path(source)), str(source))
    try:
        header = _ordinary_jpeg(data)
        return _read_with_opencv(data, header) if header else _read_with_pillow(data, lenient)
    except (
        Exception
    ) as error:  # decoders raise anything: OSError, SyntaxError, struct.error, cv2.error, MemoryError, ...
        raise ValueError(f"{name}: not a readable photo ({_reason(error)})") from error


def natural_key(text: str) -> tuple:
    'Sort key that puts "2" before "10", folder by folder: digits compare as numbers, all else as text.'
    parts = [re.split(r"([0-9]+)", part) for part in str(text).split("/")]
    numbers = [tuple(int(piece) if piece.isdecimal() else piece for piece in part) for part in parts]
    return numbers, str(text)  # the text settles ties such as "01" and "1"


def find_photos(root: str | Path) -> list[Path]:
    """Every file below `root` with one of SUFFIXES, in natural order of its path relative to `root`.

    Files and folders whose name starts with a dot are left out; linked folders are followed, a cycle once.
    Raises FileNotFoundError or NotADirectoryError where `root` is no folder.
    """
    root = Path(root)
    return sorted(_walk(root, ()), key=lambda path: natural_key(path.relative_to(root).as_posix()))


def _walk(folder: Path, above: tuple[str, ...]) -> Iterator[Path]:
    real = os.path.realpath(folder)
    if real in above:
        return
    for entry in os.scandir(folder):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(folder / entry.name, (*above, real))
        elif os.path.splitext(entry.name)[1].lower() in SUFFIXES and entry.is_file():
            yield folder / entry.name


def _file_bytes(path: Path) -> bytes:
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if not path.is_file():  # a named pipe would wait for ever
        raise ValueError(f"{path}: not a file; give the path of one photo")
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: can't be read ({error.strerror})") from error


class _Jpeg(NamedTuple):
    height: int
    width: int
    tagged: bool  # holds an APP1 segment: EXIF or XMP, where the orientation stands


def _ordinary_jpeg(data: bytes) -> _Jpeg | None:
    """What the header of a JPEG says, without decoding; None where Pillow should have the word.

    Ordinary: baseline, extended or progressive; 8 bits; 1 or 3 components; ended by EOI.
    Markers: ITU-T T.81, table B.1, https://www.w3.org/Graphics/JPEG/itu-t81.pdf
    """
    if data[:2] != b"\xff\xd8":
        return None
    at, frame, tagged = 2, None, False
    while data[at : at + 1] == b"\xff" and at + 4 <= len(data):
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        if marker == 0xDA:  # start of scan: the compressed data follow
            complete = data.find(b"\xff\xd9", at) > 0
            return _Jpeg(*frame, tagged) if frame and complete else None
        if marker in (0xC0, 0xC1, 0xC2):
            bits, height, width, components = data[at + 4], *_pair(data, at + 5), data[at + 9]
            if bits != 8 or components not in (1, 3) or not 0 < height * width <= MAX_PIXELS:
                return None
            frame = height, width
        tagged |= marker == 0xE1
        at += 2 + length
    return None


def _pair(data: bytes, at: int) -> tuple[int, int]:
    return int.from_bytes(data[at : at + 2]), int.from_bytes(data[at + 2 : at + 4])


def _read_with_opencv(data: bytes, header: _Jpeg) -> np.ndarray:
    photo = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    if photo is None:
        raise ValueError("OpenCV can't decode this JPEG")
    return photo


def _read_with_pillow(data: bytes, lenient: bool) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = Image.open(io.BytesIO(data + b"\xff\xd9" if lenient else data), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width} x {image.height} pixels, at most {MAX_PIXELS:,} are read")
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith(("I", "F")):
            image = _eight_bits(image)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return np.array(image.convert("RGB"))


def _eight_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if values.dtype.itemsize != 2:
        raise ValueError(f"pixels of mode {image.mode} have no defined white; save it with 8 or 16 bits")
    return Image.fromarray((values >> 8).astype(np.uint8))


def _reason(error: Exception) -> str:
    return f"{error}".strip().splitlines()[0] if f"{error}".strip() else type(error).__name__

"""Any image file -> uint8 RGB array, or an error that names the file.

OpenCV's libjpeg-turbo decodes an ordinary JPEG: 8 bits, grey or colour, at most MAX_PIXELS. Pillow decodes all else.
Both give the pixels of Pillow's `exif_transpose` and `convert("RGB")`, with two differences on purpose:
transparent pixels are laid over white, and grey of 16 bits keeps its upper 8 bits instead of turning white.
If a small photo is enough, libjpeg-turbo may decode it at 1/2, 1/4 or 1/8 of its size, in half the time.
"""

import hashlib
import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import PIL
from PIL import Image, UnidentifiedImageError

from toolkit.data.on_disk import headers, photo_files
from toolkit.data.on_disk.headers import (
    REDUCED,
    JpegHeader,
    count_scans,
    jpeg_header,
    orientation_of,
    reduction,
    upright,
    upright_size,
)
from toolkit.data.on_disk.photo_files import MAX_PIXELS, file_bytes
from toolkit.threads import IgnoredWarnings

MAX_SCANNED = 10 * MAX_PIXELS
"""The limit of a JPEG's pixels times its scans. A progressive photo has about 10 scans. A scan may take a dozen bytes
and visit the whole photo, so a file of a megabyte could keep a decoder busy for half an hour."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")
"""The formats that Pillow may open (JPEG includes MPO). All hold only pixels; EPS would start another program."""


def read_photo(source: str | Path | bytes, lenient: bool = False, name: str = "") -> np.ndarray:
    """Return the photo as uint8 [height, width, 3], RGB, upright by its EXIF orientation. An animation gives its first
    frame.

    source: a path, or the bytes of a file.
    lenient: read a JPEG that was cut short as far as it goes, the rest grey, instead of refusing it.
    name: the name of the file that the bytes come from, for error messages.

    Raises FileNotFoundError if there is no such file, and ValueError, with its name, if it can't be read.
    """
    return _read_source(source, name, lenient)[0]


def read_reduced(source: str | Path | bytes, shorter: int, name: str = "") -> tuple[np.ndarray, tuple[int, int]]:
    """Return the photo of `read_photo`, perhaps reduced, and the height and width, upright, of the whole photo.

    libjpeg reduces an ordinary JPEG to 1/8, 1/4 or 1/2: the smallest at which its shorter side keeps `shorter` pixels.
    A side of n pixels has ceil(n / 8) after it. Each stands for 8 x 8 pixels, the last of a row for what is left. If
    the EXIF orientation mirrors an axis, which would put that last one first, n must be a multiple of the factor.
    Raises as `read_photo` does, for the same files.
    """
    return _read_source(source, name, shorter=shorter)


def likely_size(path: Path, shorter: int) -> tuple[int, int]:
    """Height and width, in either order, of what `read_reduced` returns, estimated from the headers by Pillow: close
    enough to plan disk space. (0, 0) for a file that is no photo; `read_reduced` raises the error.
    """
    try:
        with _decoder(), Image.open(path, formats=FORMATS) as image:
            size, ordinary = image.size, image.format in ("JPEG", "MPO") and image.mode in ("L", "RGB")
    except _Unreadable:
        return 0, 0
    factor = reduction(size, 1, shorter) if ordinary else 1
    return math.ceil(size[0] / factor), math.ceil(size[1] / factor)


def decoder_digest() -> str:
    "SHA-256 of everything but the file that its pixels depend on: versions of OpenCV and Pillow, and our own source."
    digest = hashlib.sha256(f"{cv2.__version__} {PIL.__version__}".encode())
    for module in (__file__, headers.__file__, photo_files.__file__):
        digest.update(Path(module).read_bytes())
    return digest.hexdigest()


class _Unreadable(ValueError):
    "The reason why a file can't be read, without its name."


pillow_quiet = IgnoredWarnings("PIL")
"""A context in which Pillow's warnings are not printed. The important ones are errors in this module."""


@contextmanager
def _decoder() -> Iterator[None]:
    """Turn any error inside into _Unreadable. Only calls of Pillow and OpenCV stand inside, never our own code: on a
    damaged file they raise anything (OSError, SyntaxError, struct.error, TypeError, cv2.error, ...).
    """
    try:
        with pillow_quiet:
            yield
    except UnidentifiedImageError as error:
        raise _Unreadable(f"not a photo in a format that is read ({', '.join(FORMATS)})") from error
    except Exception as error:
        raise _Unreadable(f"not a readable photo ({str(error).strip() or type(error).__name__})") from error


def _read_source(
    source: str | Path | bytes, name: str, lenient: bool = False, shorter: float = math.inf
) -> tuple[np.ndarray, tuple[int, int]]:
    if not isinstance(source, bytes):
        source, name = file_bytes(Path(source)), str(source)
    try:
        return _read(source, lenient, shorter)
    except _Unreadable as error:
        raise ValueError(f"{name or '<bytes>'}: {error}") from error
    except MemoryError as error:
        reason = "there is not enough memory for its pixels"
        raise ValueError(f"{name or '<bytes>'}: not a readable photo ({reason})") from error


def _read(data: bytes, lenient: bool, shorter: float) -> tuple[np.ndarray, tuple[int, int]]:
    "Return the photo, reduced as far as `shorter` allows, and height and width of the whole photo; both upright."
    header = jpeg_header(data)
    if header and _is_ordinary(header, data):
        size = header.height, header.width
        orientation = _jpeg_orientation(data) if header.tagged else 1
        factor = reduction(size, orientation, shorter)
        flags = REDUCED[factor] | cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
        with _decoder():
            photo = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        if photo is not None:  # OpenCV gives up on a file cut short: Pillow then reads it, or says why it can't
            whole = size if factor > 1 else photo.shape[:2]
            return upright(photo, orientation), upright_size(whole, orientation)
    photo = _read_with_pillow(data, lenient)
    return photo, photo.shape[:2]


def _is_ordinary(header: JpegHeader, data: bytes) -> bool:
    """True if it is baseline, extended or progressive, with 8 bits, 1 or 3 components, and at most MAX_PIXELS.

    Raises _Unreadable if it has too many scans.
    """
    pixels = header.height * header.width
    if header.several_scans and pixels <= MAX_PIXELS:  # a larger one is refused for its size
        _check_scans(data, header.scan_at, pixels)
    coded = 0xC0 <= header.frame <= 0xC2 and header.bits == 8 and header.components in (1, 3)
    return coded and 0 < pixels <= MAX_PIXELS


def _check_scans(data: bytes, at: int, pixels: int) -> None:
    "Raise _Unreadable if a JPEG with this many pixels has more than MAX_SCANNED; `at`: the offset to count from."
    if pixels * data.count(b"\xff\xda") <= MAX_SCANNED:  # this quick count includes what only looks like a scan
        return
    scans = count_scans(data, at)
    if pixels * scans > MAX_SCANNED:
        raise _Unreadable(f"not a readable photo ({scans} scans of {pixels} pixels; at most {MAX_SCANNED:,} are read)")


def _jpeg_orientation(data: bytes) -> int:
    with _decoder():
        return orientation_of(Image.open(io.BytesIO(data), formats=("JPEG",)))


def _read_with_pillow(data: bytes, lenient: bool) -> np.ndarray:
    ending = b"\xff\xd9" if lenient and data.startswith(b"\xff\xd8") else b""
    with _decoder():
        image = Image.open(io.BytesIO(data + ending), formats=FORMATS)
    if image.width * image.height > MAX_PIXELS:
        raise _Unreadable(
            f"not a readable photo ({image.width} x {image.height} pixels; at most {MAX_PIXELS:,} are read)"
        )
    if data.startswith(b"\xff\xd8"):
        _check_scans(data, 2, image.width * image.height)  # its headers may have been too strange for jpeg_header
    with _decoder():
        image.load()
        orientation = orientation_of(image)  # after load(), which turns a TIFF upright
    return upright(np.array(to_rgb(image)), orientation)


def to_rgb(image: Image.Image) -> Image.Image:
    "The image as RGB, with transparent pixels over white. Raises ValueError for pixels of 32 bits."
    if image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PPM"):  # convert() would clip at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise _Unreadable(
            f"not a readable photo (pixels of 32 bits (mode {image.mode}) have no agreed white; save it with 8 or 16)"
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")  # convert() would copy it

"""Any image file -> uint8 RGB array, or an error that names the file.

An ordinary JPEG (8 bits, grey or colour, within MAX_PIXELS) is decoded by OpenCV's libjpeg-turbo, everything
else by Pillow. Both give the pixels of Pillow's `exif_transpose` and `convert("RGB")`, with two differences on purpose:
transparent pixels are laid over white, and grey of 16 bits keeps its upper 8 instead of turning white.
Where a photo is wanted small, libjpeg-turbo may decode it at a half, a quarter or an eighth, in half the time.
"""

import io
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from toolkit.data.quiet import pillow_quiet

MAX_PIXELS = 178_956_970
"""The most pixels, height times width, that are decoded: Pillow's limit against decompression bombs; 512 MiB as RGB."""

MAX_BYTES = 8 * MAX_PIXELS
"""The largest file that is opened: MAX_PIXELS of four channels of 16 bits, uncompressed."""

MAX_SCANNED = 10 * MAX_PIXELS
"""The most pixels, times the scans they are spread over, of a JPEG: a progressive one has about 10. A scan may take a
dozen bytes and visit the whole photo: a file of a megabyte could keep a decoder busy for half an hour."""

SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .mpo .png .apng .webp .bmp .dib .gif .tif .tiff .ppm .pgm .pbm .pnm .avif .jp2 .j2k".split()
)
"""What `find_photos` takes for a photo, in lower or upper case."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")
"""What Pillow may open (JPEG includes MPO): pixels only; EPS, for one, would start another program."""


def read_photo(source: str | Path | bytes, lenient: bool = False, name: str = "") -> np.ndarray:
    """The photo as uint8 [height, width, 3], RGB, upright by its EXIF orientation; the first frame if it is animated.

    source: a path, or the bytes of a file.
    lenient: read a JPEG that was cut short as far as it goes, the rest grey, instead of refusing it.
    name: of the file whose bytes `source` is, for errors.

    Raises FileNotFoundError where there is no such file, and ValueError, naming the file, where it can't be read.
    """
    return _read_source(source, name, lenient)[0]


def read_reduced(source: str | Path | bytes, shorter: int, name: str = "") -> tuple[np.ndarray, tuple[int, int]]:
    """The photo as `read_photo` gives it, or reduced; and the height and width, upright, of the whole of it.

    An ordinary JPEG is reduced, by libjpeg, to 1/8, 1/4 or 1/2: the smallest at which its shorter side keeps `shorter`
    pixels. A reduced side of n pixels has ceil(n / 8) of them; each stands for 8 x 8, the last of a row for what is
    left. Where the EXIF orientation mirrors an axis, which would put that one first, n has to be a multiple.
    Raises as `read_photo` does, for the same files.
    """
    return _read_source(source, name, shorter=shorter)


def likely_size(path: Path, shorter: int) -> tuple[int, int]:
    """Height and width, in whichever order, of what `read_reduced` gives, by Pillow's reading of the headers: near
    enough to plan room for it. (0, 0) for what is no photo, which is for `read_reduced` to tell.
    """
    try:
        with _decoder(), Image.open(path, formats=FORMATS) as image:
            size, ordinary = image.size, image.format in ("JPEG", "MPO") and image.mode in ("L", "RGB")
    except _Unreadable:
        return 0, 0
    factor = _reduction(size, 1, shorter) if ordinary else 1
    return math.ceil(size[0] / factor), math.ceil(size[1] / factor)


def natural_key(text: str) -> tuple:
    'Sort key that puts "2" before "10", folder by folder: runs of digits compare as numbers, all else as text.'
    return [_numbers_apart(part) for part in text.split("/")], text  # the text settles ties such as "01" and "1"


def find_photos(root: str | Path) -> list[Path]:
    """Every file below `root` with one of SUFFIXES, in natural order of its path relative to `root`.

    Names that start with a dot are left out, folders too. Linked folders are followed, but not back into themselves.
    Raises FileNotFoundError or NotADirectoryError where `root` is no folder.
    """
    root = Path(root)
    return [root / name for name in sorted(photo_names(root), key=natural_key)]


def photo_names(root: Path) -> Iterator[str]:
    "The paths of `find_photos`, relative to `root`, with slashes, in any order. It makes no Path, which costs more."
    return _names_below(os.fspath(root), "", ())


def _numbers_apart(part: str) -> list[str | int]:
    pieces: list[str | int] = re.split("([0-9]+)", part)
    pieces[1::2] = [int(digits) for digits in pieces[1::2]]
    return pieces


def _names_below(folder: str, before: str, above: tuple[str, ...]) -> Iterator[str]:
    "Those of photos below `folder`, `before` put before each."
    real = os.path.realpath(folder)
    if real in above:  # a link to a folder that holds it
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _names_below(entry.path, f"{before}{entry.name}/", (*above, real))
            elif os.path.splitext(entry.name)[1].lower() in SUFFIXES and entry.is_file():
                yield before + entry.name


def file_bytes(path: Path) -> bytes:
    "What is in the file. Raises FileNotFoundError where there is none, ValueError where it is too large or unreadable."
    if not path.is_file():  # reading a named pipe would wait for ever
        if path.exists():
            raise ValueError(f"{path}: not a file, where one photo is needed")
        raise FileNotFoundError(f"{path}: no such file")
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise ValueError(f"{path}: not a readable photo ({size:,} bytes; at most {MAX_BYTES:,} are read)")
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: can't be read ({error.strerror})") from error


class _Unreadable(ValueError):
    "What is wrong with a file, without its name."


@contextmanager
def _decoder() -> Iterator[None]:
    """Around calls of Pillow and OpenCV, never around code of ours: on a damaged file they raise anything (OSError,
    SyntaxError, struct.error, TypeError, cv2.error, ...), and all of it means _Unreadable.
    """
    try:
        with pillow_quiet:
            yield
    except UnidentifiedImageError as error:
        raise _Unreadable(f"not a photo in a format that is read ({', '.join(FORMATS)})") from error
    except Exception as error:
        raise _Unreadable(f"not a readable photo ({str(error).strip() or type(error).__name__})") from error


def _jpeg_header(data: bytes) -> tuple[tuple[int, int] | None, bool]:
    """(size, tagged), by the headers alone: height and width if it is ordinary, and whether it may be oriented.

    Ordinary: a JPEG, baseline, extended or progressive, 8 bits, 1 or 3 components, within MAX_PIXELS.
    Tagged: it has an APP1 segment, where EXIF and XMP stand.
    Source: ITU-T T.81, annex B, https://www.w3.org/Graphics/JPEG/itu-t81.pdf
    """
    at, size, tagged = 2, None, False
    pixels, components, progressive = 0, 0, True
    while data.startswith(b"\xff\xd8") and at + 10 < len(data) and data[at] == 0xFF and data[at + 1] >= 0xC0:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        if marker == 0xFF:  # filling before a marker
            at += 1
            continue
        if marker == 0xDA:  # start of scan: the compressed data
            several = progressive or data[at + 4] < components  # else libjpeg stops after one
            if several and pixels <= MAX_PIXELS:  # else it is refused for its size
                _check_scans(data, at, pixels)
            return size, tagged
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame
            bits, components = data[at + 4], data[at + 9]
            height, width = int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 7 : at + 9])
            pixels, progressive = height * width, marker & 3 == 2
            ordinary = marker <= 0xC2 and bits == 8 and components in (1, 3) and 0 < pixels <= MAX_PIXELS
            size = (height, width) if ordinary else None
        tagged |= marker == 0xE1
        at += 2 + length
    return None, tagged


def _check_scans(data: bytes, at: int, pixels: int) -> None:
    "Refuses a JPEG with more than MAX_SCANNED; its first scan begins at `at`."
    if pixels * data.count(b"\xff\xda") <= MAX_SCANNED:  # the quick count takes in what only looks like a scan
        return
    scans = 0
    while found := MARKER.search(data, at):
        at, marker = found.end(), data[found.end() - 1]
        if marker == 0xD9:  # end of image
            break
        scans += marker == 0xDA
        at += int.from_bytes(data[at : at + 2])
    if pixels * scans > MAX_SCANNED:
        raise _Unreadable(f"not a readable photo ({scans} scans of {pixels} pixels; at most {MAX_SCANNED:,} are read)")


MARKER = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")
"""Of a JPEG's segment, in or after compressed data: not a stuffed 0xFF, and not a restart."""


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
    "The photo, as far reduced as it keeps `shorter` pixels, and the height and width of the whole of it; both upright."
    size, tagged = _jpeg_header(data)
    orientation = _jpeg_orientation(data) if size and tagged else 1
    factor = _reduction(size, orientation, shorter) if size else 1
    flags = REDUCED[factor] | cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    with _decoder():
        photo = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if size else None
    if photo is None:  # also where OpenCV gave up, as on a file cut short: Pillow has the last word, and the reason
        photo = _read_with_pillow(data, lenient)
        return photo, photo.shape[:2]
    whole = size if factor > 1 else photo.shape[:2]
    return _upright(photo, orientation), whole[::-1] if orientation in TRANSPOSED else whole


def _jpeg_orientation(data: bytes) -> int:
    with _decoder():
        return _orientation(Image.open(io.BytesIO(data), formats=("JPEG",)))


def _reduction(size: tuple[int, int], orientation: int, shorter: float) -> int:
    "1, 2, 4 or 8: by how much a JPEG of that height and width, not yet upright, may be reduced."
    upright = size[::-1] if orientation in TRANSPOSED else size
    mirrored = [length for axis, length in enumerate(upright) if FLIPS.get(orientation) in (axis, -1)]
    factors = (factor for factor in (8, 4, 2) if not any(length % factor for length in mirrored))
    return next((factor for factor in factors if min(size) >= factor * shorter), 1)


REDUCED = {
    1: 0,  # with IMREAD_COLOR_RGB these give colours, and in that order
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}

TRANSPOSED = (5, 6, 7, 8)
FLIPS = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}
"""What the EXIF orientations ask for: rows and columns exchanged, then cv2.flip: 1 left-right, 0 up-down, -1 both.

Source: the table in https://pillow.readthedocs.io/en/stable/reference/ImageOps.html#PIL.ImageOps.exif_transpose
"""


def _read_with_pillow(data: bytes, lenient: bool) -> np.ndarray:
    ending = b"\xff\xd9" if lenient and data.startswith(b"\xff\xd8") else b""
    with _decoder():
        image = Image.open(io.BytesIO(data + ending), formats=FORMATS)
    if image.width * image.height > MAX_PIXELS:
        raise _Unreadable(
            f"not a readable photo ({image.width} x {image.height} pixels; at most {MAX_PIXELS:,} are read)"
        )
    if data.startswith(b"\xff\xd8"):
        _check_scans(data, 2, image.width * image.height)  # its headers may have been too strange for _jpeg_header
    with _decoder():
        image.load()
        orientation = _orientation(image)  # after load(), which turns a TIFF upright
    return _upright(np.array(to_rgb(image)), orientation)


def to_rgb(image: Image.Image) -> Image.Image:
    "The image as RGB, transparent pixels over white."
    if image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PPM"):  # convert() would clip at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise _Unreadable(
            f"not a readable photo (pixels of 32 bits (mode {image.mode}) have no agreed white; save it with 8 or 16)"
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy it


def _orientation(image: Image.Image) -> int:
    "1 to 8, as Pillow finds it in EXIF or XMP; 1, upright, where these are damaged."
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        return 1


def _upright(photo: np.ndarray, orientation: int) -> np.ndarray:
    "The photo turned as its EXIF orientation asks, [height, width, 3]."
    if orientation in TRANSPOSED:
        photo = cv2.transpose(photo)
    return cv2.flip(photo, FLIPS[orientation]) if orientation in FLIPS else photo

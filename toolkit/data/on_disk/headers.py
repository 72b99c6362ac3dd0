"""Headers of photos: the segments of a JPEG, the EXIF orientation, and how far a JPEG may be reduced.

Source of JPEG's segments: ITU-T T.81, annex B, https://www.w3.org/Graphics/JPEG/itu-t81.pdf
"""

import re
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import ExifTags, Image

SEGMENT = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")
"""The marker of a segment, before or after compressed data: neither a stuffed 0xFF nor a restart marker."""

START_OF_SCAN, END_OF_IMAGE, APP1 = 0xDA, 0xD9, 0xE1
NO_FRAMES = (0xC4, 0xC8, 0xCC)  # two kinds of tables and a reserved marker, among the markers of frames

TRANSPOSED = (5, 6, 7, 8)
FLIPS = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}
"""How a photo is turned upright, by its EXIF orientation: exchange rows and columns for TRANSPOSED, then cv2.flip with
this code: 1 left-right, 0 up-down, -1 both.

Source: the table in https://pillow.readthedocs.io/en/stable/reference/ImageOps.html#PIL.ImageOps.exif_transpose
"""

REDUCED = {  # the flag of cv2.imdecode by factor; with IMREAD_COLOR_RGB they give colours, and in that order
    1: 0,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}


@dataclass
class JpegHeader:
    "The segments of a JPEG up to its first scan."

    frame: int = 0  # marker of the frame header, 0xC0 (baseline) to 0xCF; 0 if there is none
    bits: int = 0  # per sample
    height: int = 0  # pixels, before it is turned upright
    width: int = 0
    components: int = 0
    tagged: bool = False  # it has an APP1 segment, which holds EXIF or XMP
    scan_at: int = 0  # offset of the first scan's marker, in bytes
    scan_components: int = 0  # components in the first scan

    @property
    def several_scans(self) -> bool:
        "True if libjpeg reads more than the first scan: the photo is progressive, or that scan lacks components."
        return not self.frame or self.frame & 3 == 2 or self.scan_components < self.components


def jpeg_header(data: bytes) -> JpegHeader | None:
    "Return the header of a JPEG; None if `data` is no JPEG, or if a segment before its first scan is damaged."
    at, header = 2, JpegHeader()
    while data.startswith(b"\xff\xd8") and at + 10 < len(data) and data[at] == 0xFF and data[at + 1] >= 0xC0:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        if marker == 0xFF:  # filling before a marker
            at += 1
            continue
        if marker == START_OF_SCAN:
            header.scan_at, header.scan_components = at, data[at + 4]
            return header
        if 0xC0 <= marker <= 0xCF and marker not in NO_FRAMES:
            header.frame, header.bits, header.components = marker, data[at + 4], data[at + 9]
            header.height, header.width = int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 7 : at + 9])
        header.tagged |= marker == APP1
        at += 2 + length
    return None


def count_scans(data: bytes, at: int) -> int:
    "Return the number of scans of a JPEG from offset `at`, where a segment begins, to the end of the image."
    scans = 0
    while found := SEGMENT.search(data, at):
        at, marker = found.end(), data[found.end() - 1]
        if marker == END_OF_IMAGE:
            break
        scans += marker == START_OF_SCAN
        at += int.from_bytes(data[at : at + 2])
    return scans


def orientation_of(image: Image.Image) -> int:
    "The orientation, 1 to 8, that Pillow finds in EXIF or XMP; 1, which is upright, if these are damaged."
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        return 1


def upright(photo: np.ndarray, orientation: int) -> np.ndarray:
    "The photo, [height, width, 3], turned as its EXIF orientation asks."
    if orientation in TRANSPOSED:
        photo = cv2.transpose(photo)
    return cv2.flip(photo, FLIPS[orientation]) if orientation in FLIPS else photo


def upright_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    "Height and width of a photo after `upright`, from those before it."
    return size[::-1] if orientation in TRANSPOSED else size


def reduction(size: tuple[int, int], orientation: int, shorter: float) -> int:
    """Return the factor, 1, 2, 4 or 8, by which libjpeg may reduce a JPEG: the largest that leaves its shorter side
    `shorter` pixels or more, and that divides each side which `upright` mirrors.

    size: height and width, before it is turned upright.
    """
    sides = upright_size(size, orientation)
    mirrored = [length for axis, length in enumerate(sides) if FLIPS.get(orientation) in (axis, -1)]
    factors = (factor for factor in (8, 4, 2) if not any(length % factor for length in mirrored))
    return next((factor for factor in factors if min(size) >= factor * shorter), 1)

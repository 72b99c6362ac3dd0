"""Bounds of what a request may hold, and of what all requests hold together."""

import io
from dataclasses import dataclass

from PIL import Image

from toolkit.data.on_disk.headers import count_scans, jpeg_header
from toolkit.data.photo import FORMATS, pillow_quiet

SCANS = 10
"A JPEG may have this many scans of `max_pixels`: a scan takes a dozen bytes and visits every pixel."

IN_MEMORY = 8
"The bodies of all requests together may take this many times `max_bytes`."

HEADER_BYTES = 16_384
"The most bytes of a request's line and headers."

CONNECTIONS = 512
"The most connections that are open at a time; each takes a file descriptor, of which a process often has 1,024."

HEADERS_WITHIN, BODY_WITHIN, ANSWER_WITHIN = 10, 30, 30
"Seconds in which a client must have sent its headers, then its body, and in which it must have taken the answer."


@dataclass(frozen=True)
class Limits:
    "The bounds that a user may set."

    max_bytes: int  # of a request's body
    max_pixels: int  # of a photo
    max_photos: int  # of a request
    queue: int  # photos of all requests that are being answered


def check_pixels(data: bytes, most: int) -> None:
    """Raise ValueError if the photo's header claims more than `most` pixels, or so many in so many scans.

    Nothing is decoded. A file that is no photo passes: reading it raises the error.
    """
    header = jpeg_header(data)
    pixels = header.height * header.width if header else _pixels_by_pillow(data)
    if pixels > most:
        raise ValueError(f"not a photo that is read here ({pixels:,} pixels; at most {most:,})")
    if header and header.several_scans and pixels * data.count(b"\xff\xda") > SCANS * most:  # the quick count first
        scans = count_scans(data, header.scan_at)
        if pixels * scans > SCANS * most:
            raise ValueError(f"not a photo that is read here ({scans} scans of {pixels:,} pixels)")


def _pixels_by_pillow(data: bytes) -> int:
    try:
        with pillow_quiet, Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return image.width * image.height
    except Exception:  # on a damaged file Pillow raises anything
        return 0

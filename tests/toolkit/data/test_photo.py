import ast
import io
import os
import re
import shutil
import struct
import subprocess
import sys
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from test_photo_fuzz import SEEDS, mutated

from toolkit.data import photo
from toolkit.data.on_disk.photo_files import find_photos, natural_key
from toolkit.data.photo import pillow_quiet, read_photo, read_reduced

UNREADABLE = ("identified_but_fails_to_load", "not_identified", "made_here_truncated_jpeg")


def as_pillow(source: Path | bytes) -> np.ndarray:
    "The photo by Pillow's exif_transpose and convert; transparency over white by its formula, of 16 bits the upper 8."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(source) if isinstance(source, bytes) else source))
    if image.mode.startswith("I;16"):
        return np.repeat((np.asarray(image) // 256).astype(np.uint8)[..., None], 3, 2)
    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB"))
    rgba = np.asarray(image.convert("RGBA")).astype(float)
    alpha = rgba[..., 3:] / 255
    return np.rint(rgba[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def picture(height: int = 61, width: int = 87) -> Image.Image:
    "A synthetic photo: colours that change in both directions, with noise."
    down, across = np.mgrid[:height, :width]
    noise = np.random.default_rng(0).integers(0, 60, (height, width, 3))
    colours = np.stack([down * 190 / height, across * 190 / width, (down + across) * 190 / (height + width)], 2)
    return Image.fromarray((colours + noise).astype(np.uint8))


def odd_files(odd: Path) -> Iterator[Path]:
    return (path for path in sorted(odd.rglob("*")) if path.is_file())


def test_every_odd_file_is_as_pillow_reads_it_or_refused_by_name(odd):
    refused, differing = set(), {}
    for path in odd_files(odd):
        try:
            read = read_photo(path)
        except ValueError as error:
            refused.add(path if str(path) in str(error) else str(error))
            continue
        expected = as_pillow(path)
        if (read.dtype, read.shape) != (np.uint8, expected.shape):
            differing[path] = read.shape
        elif np.abs(read.astype(int) - expected).max() > 1:
            differing[path] = np.abs(read.astype(int) - expected).max()
    assert differing == {}
    of_32_bits = {"16bit/pillow__16_bit_binary_pgm.tiff", "16bit/pillow__16bit.s.tif"}
    assert refused == {path for path in odd_files(odd) if path.parent.name in UNREADABLE} | {
        odd / name for name in of_32_bits
    }


def test_no_odd_file_crashes_hangs_or_warns(odd):
    "It runs in its own process with 4 GB: some of the files are made to crash a reader or to fill the memory."
    code = (
        "import resource, sys; from pathlib import Path; from toolkit.data.photo import read_photo\n"
        "resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))\n"
        "for path in sorted(Path(sys.argv[1]).rglob('*')):\n"
        "    for lenient in (False, True) if path.is_file() else ():\n"
        "        try: read_photo(path, lenient)\n"
        "        except ValueError: pass\n"
        "print('done')"
    )
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", code, str(odd)],
        capture_output=True,
        text=True,
        timeout=100,
        errors="replace",
    )
    assert (done.returncode, done.stdout) == (0, "done\n")
    assert "Warning:" not in done.stderr


JPEGS = {
    "4:2:0": {"subsampling": 2},
    "4:2:2": {"subsampling": 1},
    "4:4:4, best": {"subsampling": 0, "quality": 100},
    "worst": {"quality": 1},
    "progressive": {"progressive": True},
    "optimized": {"optimize": True},
    "restart markers": {"restart_marker_blocks": 2},
    "RGB inside": {"keep_rgb": True},
    "a comment": {"comment": b"\xff\xd9 \xff\xda"},
    "a colour profile": {"icc_profile": b"0" * 70000},
}


@pytest.mark.parametrize("options", JPEGS.values(), ids=JPEGS)
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [(61, 87), (16, 16), (1, 1), (3, 200)])
def test_every_kind_of_jpeg_is_pillows_to_the_bit(options, mode, size):
    data = encoded(picture(*size).convert(mode), **options)
    np.testing.assert_array_equal(read_photo(data), as_pillow(data))


def test_an_ordinary_jpeg_is_decoded_by_opencv(monkeypatch):
    monkeypatch.setattr(photo, "_read_with_pillow", None)
    assert read_photo(encoded(picture())).shape == (61, 87, 3)


def test_cmyk_jpeg_is_as_pillow_reads_it():
    data = encoded(picture().convert("CMYK"))
    np.testing.assert_array_equal(read_photo(data), as_pillow(data))


def drafted(data: bytes, factor: int) -> Image.Image:
    "The JPEG at 1 / factor of its size, by libjpeg through Pillow."
    image = Image.open(io.BytesIO(data))
    image.draft(image.mode, [length // factor for length in image.size])
    return image


@pytest.mark.parametrize("options", JPEGS.values(), ids=JPEGS)
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(("shorter", "factor"), [(62, 1), (61, 1), (31, 1), (30, 2), (15, 4), (7, 8), (1, 8)])
def test_a_jpeg_is_reduced_as_pillows_draft_does_and_keeps_its_shorter_side(options, mode, shorter, factor):
    data = encoded(picture(61, 87).convert(mode), **options)
    photo, whole = read_reduced(data, shorter)
    assert whole == (61, 87)
    assert photo.shape == (-(-61 // factor), -(-87 // factor), 3)
    np.testing.assert_array_equal(photo, np.asarray(drafted(data, factor).convert("RGB")))


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("size", [(64, 96), (61, 87), (64, 90), (60, 96)])
def test_a_reduced_photo_is_upright_and_begins_where_the_whole_one_does(orientation, size):
    "The last pixel may stand for fewer than the others. It must stay last: the factor divides a mirrored side."
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture(*size), exif=exif)
    photo, whole = read_reduced(data, 7)
    assert whole == as_pillow(data).shape[:2]
    mirrored = {2: "x", 3: "yx", 4: "y", 6: "y", 7: "yx", 8: "x"}.get(orientation, "")  # as the file has them
    factor = next(k for k in (8, 4, 2, 1) if not any(size["yx".index(axis)] % k for axis in mirrored))
    expected = np.asarray(ImageOps.exif_transpose(drafted(data, factor)))
    np.testing.assert_array_equal(photo, expected)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "BMP"])
def test_other_formats_than_jpeg_are_not_reduced(kind):
    photo, whole = read_reduced(encoded(picture(), kind), 7)
    assert whole == (61, 87)
    np.testing.assert_array_equal(photo, read_photo(encoded(picture(), kind)))


def test_a_cmyk_jpeg_is_not_reduced():
    data = encoded(picture().convert("CMYK"))
    np.testing.assert_array_equal(read_reduced(data, 7)[0], as_pillow(data))


def size_or_reason(read: Callable, *arguments: object) -> object:
    "The height and width, or the reason why there are none."
    try:
        answer = read(*arguments)
    except ValueError as error:
        return str(error)
    return answer[1] if isinstance(answer, tuple) else answer.shape[:2]


def test_odd_files_are_refused_for_the_same_reason_whether_read_whole_or_reduced(odd):
    answers = {
        path: (size_or_reason(read_reduced, path, 1), size_or_reason(read_photo, path)) for path in odd_files(odd)
    }
    assert {path: pair for path, pair in answers.items() if pair[0] != pair[1]} == {}
    assert sum(isinstance(whole, str) for _, whole in answers.values()) > 20


def test_damaged_jpegs_are_refused_for_the_same_reason_whether_read_whole_or_reduced():
    whole = SEEDS["JPEG"]()
    damaged = [mutated(whole, (0, "reduced", index)) for index in range(700)]
    damaged += [data[:at] for data in whole for at in range(0, len(data), 97)]
    answers = [(size_or_reason(read_reduced, data, 6), size_or_reason(read_photo, data)) for data in damaged]
    assert [pair for pair in answers if pair[0] != pair[1]] == []
    assert 200 < sum(isinstance(reason, str) for _, reason in answers) < len(answers) - 200


def test_a_size_in_a_comment_is_not_taken_for_the_size_of_the_photo():
    "libjpeg skips a filling byte before a marker. A parser that takes it for the marker lands in the comment."
    frame = b"\xff\xc0\0\x11\x08" + struct.pack(">HH", 3000, 400) + b"\3" + bytes(9) + b"\xff\xda" + bytes(9)
    comment = b"\xff\xff\xfe\xff\xff" + (bytes(65276) + frame).ljust(65533, b"\0")
    data = encoded(picture())
    strange = data[:2] + comment + data[2:]
    np.testing.assert_array_equal(read_photo(strange), as_pillow(data))
    reduced, whole = read_reduced(strange, 7)
    assert (reduced.shape, whole) == ((8, 11, 3), (61, 87))


def test_errors_name_the_file_whose_bytes_were_given():
    for read in (lambda data: read_reduced(data, 7, "cats/1.jpg"), lambda data: read_photo(data, name="cats/1.jpg")):
        with pytest.raises(ValueError, match="^cats/1.jpg: not a readable photo .image file is truncated"):
            read(encoded(picture())[:-100])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(10))
def test_exif_orientation_is_applied(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture(), kind, exif=exif)
    np.testing.assert_array_equal(read_photo(data), as_pillow(data))
    assert read_photo(data).shape == ((87, 61, 3) if 5 <= orientation <= 8 else (61, 87, 3))


def test_orientation_in_xmp_is_applied():
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    data = encoded(picture(), xmp=xmp)
    assert read_photo(data).shape == (87, 61, 3)
    np.testing.assert_array_equal(read_photo(data), as_pillow(data))


READERS = {
    "OpenCV": read_photo,
    "OpenCV, reduced": lambda data: read_reduced(data, 6),
    "Pillow": lambda data: photo._read_with_pillow(data, False),
    "Pillow, lenient": lambda data: photo._read_with_pillow(data, True),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_damaged_photo_shows_nothing_of_the_one_that_was_read_before_it(reader):
    "OpenCV 4.10 returned, for some damaged JPEGs, a part of the photo decoded before them."
    read, size = READERS[reader], (87, 61)

    def pixels(data: bytes) -> bytes | str:
        try:
            answer = read(data)
        except ValueError as error:
            return str(error)
        return (answer[0] if isinstance(answer, tuple) else answer).tobytes()

    kinds = ["JPEG", "PNG", "WEBP"] if "Pillow" in reader else ["JPEG"]
    whole = [encoded(picture(), kind, **options) for kind in kinds for options in ({}, {"progressive": True})]
    damaged = [mutated([data], (0, "before", index)) for data in whole for index in range(100)]
    damaged += [data[:at] for data in whole for at in range(20, len(data), 211)]
    answers = []
    for colour in ("white", "black"):
        before = encoded(Image.new("RGB", size, colour))
        answers.append([(read(before), pixels(data))[1] for data in damaged])
    assert answers[0] == answers[1]
    assert len({answer for answer in answers[0] if isinstance(answer, bytes)}) > 20


def test_damaged_exif_leaves_the_photo_as_it_is():
    data = encoded(picture(), exif=b"Exif\0\0nothing of the kind")
    np.testing.assert_array_equal(read_photo(data), as_pillow(encoded(picture())))


def test_an_exif_thumbnail_does_not_pass_for_the_photos_end(capfd):
    "The end marker of the thumbnail stands before the photo's data."
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0" + encoded(picture(8, 8))
    data = encoded(picture(), exif=exif)
    np.testing.assert_array_equal(read_photo(data), as_pillow(encoded(picture())))
    with pytest.raises(ValueError, match="truncated"):
        read_photo(data[:-100])
    assert capfd.readouterr().err == ""


def test_bytes_after_the_end_do_not_matter():
    data = encoded(picture())
    np.testing.assert_array_equal(read_photo(data + b"\xff\xd8 and more" * 99), read_photo(data))


def test_transparent_pixels_are_laid_over_white():
    rgba = np.array([[[255, 0, 0, 255], [255, 0, 0, 0], [0, 0, 255, 51], [9, 9, 9, 128]]], np.uint8)
    expected = [[[255, 0, 0], [255, 255, 255], [204, 204, 255], [132, 132, 132]]]
    for kind in ("PNG", "TIFF", "WEBP"):
        data = encoded(Image.fromarray(rgba), kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
        assert np.abs(read_photo(data).astype(int) - expected).max() <= 1
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    assert read_photo(encoded(palette, "PNG", transparency=0)).tolist() == [[[255, 255, 255], [40, 50, 60]]]
    grey = Image.fromarray(np.array([[0, 100]], np.uint8))
    assert read_photo(encoded(grey, "PNG", transparency=0)).tolist() == [[[255] * 3, [100] * 3]]


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_keeps_its_upper_8_bits(kind):
    "Pillow's own convert('RGB') turns everything above 255 white."
    values = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    read = read_photo(encoded(Image.fromarray(values), kind))
    assert read[..., 0].tolist() == [[0, 0, 1, 128, 255]]
    assert (read == read[..., :1]).all()


@pytest.mark.parametrize("values", [np.ones((2, 2), np.int32), np.ones((2, 2), np.float32)])
def test_pixels_of_32_bits_are_refused(values):
    with pytest.raises(ValueError, match="<bytes>: not a readable photo .pixels of 32 bits .* save it with 8 or 16"):
        read_photo(encoded(Image.fromarray(values), "TIFF"))


def test_the_first_frame_of_an_animation_is_read():
    frames = [Image.new("RGB", (5, 4), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        assert np.abs(read_photo(data)[2, 2].astype(int) - [255, 0, 0]).max() < 5


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_cut_short_is_refused_unless_lenient(keep, progressive, capfd):
    "OpenCV, whose libjpeg would complain on the terminal, never reads it."
    whole = encoded(picture(200, 300), progressive=progressive)
    cut = whole[: int(keep * len(whole))]
    with pytest.raises(ValueError, match="<bytes>: not a readable photo .image file is truncated"):
        read_photo(cut)
    read = read_photo(cut, lenient=True)
    assert read.shape == (200, 300, 3)
    assert capfd.readouterr().err == ""
    if not progressive:  # what came before the cut is as it was
        rows = int(keep * 200) - 40
        np.testing.assert_array_equal(read[:rows], read_photo(whole)[:rows])


def test_a_progressive_jpeg_cut_between_two_scans_is_refused():
    "Each scan is whole: without the later ones the photo would only be blurred."
    whole = encoded(picture(200, 300), progressive=True)
    scans = [found.start() for found in re.finditer(b"\xff\xda", whole)]
    assert len(scans) > 5
    for at in scans:
        with pytest.raises(ValueError, match="<bytes>: not a (readable )?photo"):  # Pillow 13 opens what has no scan
            read_photo(whole[:at])
    assert read_photo(whole[: scans[-1]], lenient=True).shape == (200, 300, 3)


def test_lenient_changes_nothing_about_a_whole_file():
    for kind in ("JPEG", "PNG"):
        data = encoded(picture(), kind)
        np.testing.assert_array_equal(read_photo(data, lenient=True), read_photo(data))
    with pytest.raises(ValueError, match="<bytes>: not a readable photo"):
        read_photo(encoded(picture(), "PNG")[:-2000], lenient=True)


def test_errors_name_the_file_and_the_reason(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.jpg: no such file"):
        read_photo(tmp_path / "none.jpg")
    with pytest.raises(ValueError, match="not a file, where one photo is needed"):
        read_photo(tmp_path)
    for name, content in (("empty.jpg", b""), ("page.png", b"<html>404</html>"), ("cut.jpg", b"\xff\xd8\xff")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}: not a .*photo"):
            read_photo(str(tmp_path / name))
    with pytest.raises(ValueError, match="<bytes>: not a photo in a format that is read .JPEG, PNG, WEBP"):
        read_photo(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")


def test_a_named_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "photo.jpg")
    with pytest.raises(ValueError, match="not a file"):
        read_photo(tmp_path / "photo.jpg")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_refused(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(encoded(picture()))
    (tmp_path / "photo.jpg").chmod(0)
    with pytest.raises(ValueError, match="photo.jpg: can't be read .Permission denied"):
        read_photo(tmp_path / "photo.jpg")


def png_that_claims(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


SIZES = {  # what stands before a header's size, and how the size is written
    "JPEG": (b"\xff\xc0\0\x11\x08", lambda width, height: struct.pack(">HH", height, width)),
    "GIF": (b",\0\0\0\0", lambda width, height: struct.pack("<HH", width, height)),
    "BMP": (b"\x28\0\0\0", lambda width, height: struct.pack("<ii", width, height)),
    "TIFF": (b"\0\1\4\0\1\0\0\0", lambda width, height: struct.pack("<IHHII", width, 0x101, 4, 1, height)),
    "WEBP": (b"\x9d\x01\x2a", lambda width, height: struct.pack("<HH", width, height)),
    "JPEG2000": (b"ihdr", lambda width, height: struct.pack(">II", height, width)),
}


def claims(kind: str, width: int, height: int) -> bytes:
    "A small whole file of that format whose header has another size."
    data = bytearray(encoded(Image.new("P" if kind == "GIF" else "RGB", (16, 16)), kind))
    before, size = SIZES[kind][0], SIZES[kind][1](width, height)
    at = data.index(before) + len(before)
    data[at : at + len(size)] = size
    return bytes(data)


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def inflating(name: bytes, times: int) -> bytes:
    "A PNG with chunks that decompress to 256 MiB each."
    data, bomb = encoded(picture(), "PNG"), zlib.compress(bytes(2**28), 9)
    at = data.index(b"IDAT") - 4
    head = {b"iCCP": b"profile\0\0", b"zTXt": b"key\0\0", b"iTXt": b"key\0\1\0\0\0"}[name]
    return data[:at] + chunk(name, head + bomb) * times + data[at:]


def animation(kind: str, frames: int) -> bytes:
    "An animation of 1500 x 1500 whose second frame is repeated that many times."
    pair = [Image.new("RGB", (1500, 1500), colour) for colour in ("red", "blue")]
    data = encoded(pair[0], kind, save_all=True, append_images=pair[1:])
    if kind == "GIF":
        start = data.rindex(b"\x21\xf9\x04")  # the graphic control extension before the second frame
        return data[:-1] + data[start:-1] * frames + data[-1:]
    data += data[data.rindex(b"ANMF") :] * frames
    return data[:4] + struct.pack("<I", len(data) - 8) + data[8:]


def test_bombs_are_refused_before_they_are_decoded_and_only_the_first_frame_of_an_animation_is(tmp_path):
    "It runs in its own process with 128 MiB to spare; each file would take a GiB or more."
    files = {f"{kind}-size": claims(kind, 60000, 60000) for kind in SIZES if kind != "WEBP"}
    files |= {"WEBP-size": claims("WEBP", 16383, 16383), "PNG-size": png_that_claims(60000, 60000)}
    files |= {name.decode(): inflating(name, 8) for name in (b"iCCP", b"zTXt", b"iTXt")}
    films = {f"{kind}-film": animation(kind, 500) for kind in ("GIF", "WEBP")}
    for name, data in (files | films).items():
        (tmp_path / name).write_bytes(data)
    code = (
        "import re, resource, sys; from pathlib import Path; from toolkit.data.photo import read_photo\n"
        "held = 1024 * int(re.search(r'VmSize:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])\n"
        "resource.setrlimit(resource.RLIMIT_AS, (held + 2**27, held + 2**27))\n"
        "for path in sorted(Path(sys.argv[1]).iterdir()):\n"
        "    try: print(path.name, read_photo(path).shape)\n"
        "    except ValueError as error: print(path.name, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60)
    printed = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert printed.keys() == files.keys() | films.keys(), done.stderr
    refusal = "decompression bomb|at most 178,956,970|Decompressed data too large"
    refusal += "|could not create decoder object"  # Pillow 12 asks for a WebP's memory first
    assert [name for name in files if not re.search(refusal, printed[name])] == [], printed
    assert {printed[name] for name in films} == {"(1500, 1500, 3)"}


def with_scans(count: int, size: int) -> bytes:
    "A progressive JPEG that repeats its last scan, 20 bytes each time."
    data = encoded(Image.new("L", (size, size), 128), progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    between = b"\xff\xfe\0\x06\xff\xd9ab"  # a comment with what looks like an end in it
    return data[:-2] + (between + last[:12]) * count + b"\xff\xd9"


def test_a_jpeg_of_endless_scans_is_refused_at_once():
    started = time.perf_counter()
    with pytest.raises(ValueError, match=r"100006 scans of 1000000 pixels; at most 1,789,569,700 are read"):
        read_photo(with_scans(100_000, 1000))
    assert time.perf_counter() - started < 2
    assert read_photo(with_scans(100, 200)).shape == (200, 200, 3)


@pytest.mark.parametrize("odd_start", [b"\xff\0", b"\xff\xff", b"\xff\xff\xff\xfe\0\4ab"])
def test_strange_headers_do_not_hide_endless_scans(odd_start):
    data = with_scans(100_000, 1000)
    started = time.perf_counter()
    with pytest.raises(ValueError, match="100006 scans of 1000000 pixels"):
        read_photo(data[:2] + odd_start + data[2:])
    assert time.perf_counter() - started < 2


def test_repeated_scans_of_a_baseline_jpeg_cost_no_time():
    data = encoded(picture(1000, 1000), quality=1)
    scan = data[data.index(b"\xff\xda") : -2]
    started = time.perf_counter()
    np.testing.assert_array_equal(read_photo(data[:-2] + scan * 2000 + data[-2:]), read_photo(data))
    assert time.perf_counter() - started < 2


def test_scans_of_one_component_each_are_counted(monkeypatch):
    monkeypatch.setattr(photo, "MAX_SCANNED", 61 * 87 * 2)
    data = bytearray(encoded(picture()))
    at = data.index(b"\xff\xda")
    scan = b"\xff\xda\0\x08\1\1\0\0\x3f\0"
    with pytest.raises(ValueError, match="3 scans of 5307 pixels"):
        read_photo(bytes(data[:at]) + scan * 3 + b"\xff\xd9")


def test_bytes_after_the_end_that_look_like_scans_are_not_counted(monkeypatch):
    monkeypatch.setattr(photo, "MAX_SCANNED", 61 * 87 * 10)
    for data in (encoded(picture()), encoded(picture(), progressive=True)):
        np.testing.assert_array_equal(read_photo(data + b"\0\0" + b"\xff\xda\0\2" * 9999), read_photo(data))


def test_more_pixels_than_the_limit_are_refused(monkeypatch):
    monkeypatch.setattr(photo, "MAX_PIXELS", 61 * 87 - 1)
    for kind in ("JPEG", "PNG"):
        with pytest.raises(ValueError, match="<bytes>: not a readable photo .87 x 61 pixels; at most 5,306 are read"):
            read_photo(encoded(picture(), kind))


def test_a_file_too_large_for_any_photo_is_not_opened(tmp_path):
    with (tmp_path / "film.tif").open("wb") as file:
        file.truncate(2**40)  # sparse: it takes no space
    with pytest.raises(
        ValueError, match="film.tif: not a readable photo .1,099,511,627,776 bytes; at most 1,431,655,760"
    ):
        read_photo(tmp_path / "film.tif")


def test_too_little_memory_for_the_pixels_is_an_error_that_says_so(monkeypatch):
    def full(*_):
        raise MemoryError

    monkeypatch.setattr(photo, "upright", full)
    with pytest.raises(ValueError, match="<bytes>: not a readable photo .there is not enough memory for its pixels"):
        read_photo(encoded(picture(), "PNG"))


@pytest.mark.parametrize("broken", ["upright", "to_rgb", "jpeg_header"])
def test_a_bug_of_ours_is_not_taken_for_a_broken_photo(monkeypatch, broken):
    monkeypatch.setattr(photo, broken, lambda *_: [].nothing)
    with pytest.raises(AttributeError, match="nothing"):
        read_photo(encoded(picture(), "PNG"))


def test_pillows_warning_about_large_photos_is_not_the_users(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 61 * 87 - 1)
    exif = Image.Exif()
    exif[0x0112] = 6
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_photo(encoded(picture(), "PNG")).shape == (61, 87, 3)
        assert read_photo(encoded(picture(), exif=exif)).shape == (87, 61, 3)


def test_threads_read_alike_and_leave_the_warning_filters_as_they_were(odd):
    paths = [path for path in odd_files(odd) if path.parent.name in ("rgba", "palette", "grey_alpha", "webp")]
    before, expected = list(warnings.filters), [read_photo(path).tobytes() for path in paths]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda path: read_photo(path).tobytes(), paths * 3))
    assert results == expected * 3
    assert warnings.filters == before
    assert threading.active_count() < 20


def test_the_last_reader_to_leave_restores_the_warning_filters():
    before = list(warnings.filters)
    with pillow_quiet:
        with pillow_quiet:
            pass
        assert warnings.filters != before
    assert warnings.filters == before


def test_the_array_may_be_written_to():
    for data in (encoded(picture()), encoded(picture(), "PNG"), encoded(picture().convert("RGBA"), "PNG")):
        read = read_photo(data)
        read[:] = 0
        assert read.flags.c_contiguous


def test_natural_key_counts():
    names = ["10", "9", "1", "2b", "2a", "img12.png", "img2.png", "a/10/x", "a/9/x", "a-b", "01", "", "³", "٣", "x١٢"]
    ordered = sorted(names, key=natural_key)
    numbers = [name for name in ordered if name in names[:5] or name == "01"]
    assert numbers == ["01", "1", "2a", "2b", "9", "10"]
    assert ordered.index("img2.png") < ordered.index("img12.png")
    assert ordered.index("a/9/x") < ordered.index("a/10/x") < ordered.index("a-b")
    assert sorted(reversed(names), key=natural_key) == ordered


def test_find_photos_finds_photos_in_natural_order(tmp_path):
    wanted = ["1/b.JPG", "2/a.png", "2/c.jpeg", "10/1.webp", "10/2.Tiff", "10/10.bmp", "x.gif"]
    others = ["notes.txt", ".hidden.jpg", ".git/a.jpg", "1/Thumbs.db", "1/._b.jpg", "jpg", "2/d.jpg.part"]
    for name in wanted + others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    assert [path.relative_to(tmp_path).as_posix() for path in find_photos(tmp_path)] == wanted
    assert find_photos(str(tmp_path)) == find_photos(tmp_path)


def test_linked_folders_are_followed_but_not_into_themselves(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "1.jpg").write_bytes(b"")
    (tmp_path / "data").mkdir()
    for name in ("cats", "dogs"):
        (tmp_path / "data" / name).symlink_to(tmp_path / "store")
    (tmp_path / "store" / "again").symlink_to(tmp_path / "store")
    (tmp_path / "store" / "up").symlink_to(tmp_path / "data")
    found = [path.relative_to(tmp_path / "data").as_posix() for path in find_photos(tmp_path / "data")]
    assert found == ["cats/1.jpg", "dogs/1.jpg"]


def test_a_root_that_is_no_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        find_photos(tmp_path / "nowhere")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError, match="file"):
        find_photos(tmp_path / "file")


def modules_of(name: str) -> set[str]:
    "The module, and all modules of toolkit.data that it imports, directly or not."
    root, found, waiting = Path(photo.__file__).parents[2], set(), [name]
    while waiting:
        found.add(module := waiting.pop())
        for node in ast.walk(ast.parse((root / f"{module.replace('.', '/')}.py").read_text())):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("toolkit.data"):
                is_folder = (root / node.module.replace(".", "/")).is_dir()
                more = {f"{node.module}.{each.name}" for each in node.names} if is_folder else {node.module}
                waiting += more - found
    return found


def test_the_digest_of_the_decoder_changes_with_every_file_that_decoding_depends_on(tmp_path):
    "By it a cache is built again, and photos are checked again."
    shutil.copytree(Path(photo.__file__).parents[1], tmp_path / "toolkit")
    files = [f"{module.replace('.', '/')}.py" for module in sorted(modules_of("toolkit.data.photo"))]
    code = (
        "import sys; from pathlib import Path; from toolkit.data.photo import decoder_digest as d\n"
        "print(d())\n"
        "for name in sys.argv[1:]: Path(name).open('a').write('#'); print(d())\n"
        "import PIL; PIL.__version__ = '0.1'; print(d())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *files], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert len(files) == 3
    assert len(set(done.stdout.split())) == 1 + len(files) + 1


def test_reading_photos_needs_no_torch():
    code = "import sys, toolkit.data.photo, toolkit.data.preprocess; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"

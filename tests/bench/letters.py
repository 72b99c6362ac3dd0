"""One more set of pictures for `peers.py`: 26 small letters, drawn in the fonts of this machine.

    apt-get install fontconfig fonts-adf-{accanthis,baskervald,berenis,gillius,ikarius,irianis,libris,mekanus} \\
        fonts-adf-{oldania,romande,solothurn,tribun,universalis,verana} fonts-crosextra-{caladea,carlito} \\
        fonts-{bebas-neue,breip,cabin,cantarell,comfortaa,comic-neue,courier-prime,croscore,dancingscript,dejavu} \\
        fonts-{dosis,ebgaramond,firacode,freefont-ttf,gfs-didot,hack,inconsolata,isabella,junction,jura,karla} \\
        fonts-{kristi,lato,league-spartan,liberation,linuxlibertine,lobster,lobstertwo,oldstandard,open-sans} \\
        fonts-{play,quicksand,roboto,sil-gentium,vollkorn,yanone-kaffeesatz}
    python tests/bench/letters.py letters

Writes train/ (40 pictures of each letter), val/ and test/ (20 each) and test_labels.csv. The fonts are split by family:
half of the families to train, a quarter each to validate and to test. A picture has 80 x 80 pixels: a letter in random
colours on a background that changes from one random colour to another, turned, shifted, blurred and noisy. The same
fonts give the same pictures. b and d, p and q are each other's mirror images in many fonts.
"""

import csv
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from string import ascii_lowercase

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

SIDE = 80  # of a picture, in pixels
PICTURES = {"train": 40, "val": 20, "test": 20}  # of each letter
NO_LETTERS = ("Keyboard", "Initials", "Math")  # in the name of a family: keys, ornaments, symbols
SAME_DESIGN = {  # families drawn after another one, and so kept in its part
    **dict.fromkeys(["Arimo", "Cousine", "Tinos"], "Liberation"),
    **dict.fromkeys(["Hack", "Verana"], "DejaVu"),
    **{"Carlito": "Lato", "GentiumAlt": "Gentium"},
}
CONTRAST = 70  # least difference in brightness between letter and background, of 255
BRIGHTNESS = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


def families() -> list[list[Path]]:
    "Files of each family of fonts that has 26 letters. Families whose names begin with the same word count as one."
    words = ["fc-list", ":lang=en:scalable=true", "--format", "%{family[0]}\t%{file}\n"]
    found = defaultdict(list)
    for line in sorted(subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()):
        family, file = line.split("\t")
        first = family.split()[0]
        if not any(word in family for word in NO_LETTERS) and has_letters(Path(file)):
            found[SAME_DESIGN.get(first, first)].append(Path(file))
    return [files for _, files in sorted(found.items())]


def has_letters(file: Path) -> bool:
    "True if the font draws 26 letters, none of them empty and no two alike."
    font = ImageFont.truetype(file, 40)
    masks = [font.getmask(letter) for letter in ascii_lowercase]
    return len({(mask.size, bytes(mask)) for mask in masks}) == 26 and all(any(bytes(mask)) for mask in masks)


def make(folder: Path) -> None:
    order, labels, fonts = np.random.default_rng(0), [], families()
    if len(fonts) < 20:
        sys.exit(f"{len(fonts)} families of fonts · at least 20 are needed: install the packages that --help names")
    for part, mine in split(len(fonts), order).items():
        wanted = [letter for letter in ascii_lowercase for _ in range(PICTURES[part])]
        for number, index in enumerate(order.permutation(len(wanted))):  # names tell nothing of the letters
            letter, files = wanted[index], fonts[mine[index % len(mine)]]
            name = folder / part / ("" if part == "test" else letter) / f"{part}{number:04}.jpg"
            name.parent.mkdir(parents=True, exist_ok=True)
            picture(letter, files[order.integers(len(files))], order).save(name, quality=90)
            labels += [[name.name, letter]] if part == "test" else []
    with (folder / "test_labels.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([["image_name", "label"], *labels])
    print(f"{folder}: {len(fonts)} families of fonts, {sum(PICTURES.values()) * 26} pictures")


def split(count: int, order: np.random.Generator) -> dict[str, np.ndarray]:
    "Numbers of the families of each part: half, a quarter and a quarter."
    places = order.permutation(count)
    return {"train": places[0::2], "val": places[1::4], "test": places[3::4]}


def picture(letter: str, file: Path, draw: np.random.Generator) -> Image.Image:
    "The letter in random colours, between 0.4 and 0.75 of the picture high, within 12 degrees of upright."
    shape = drawn(letter, file, draw.uniform(0.4, 0.75), draw.uniform(-12, 12), draw.uniform(-0.08, 0.08, 2))
    ink, *back = colours(draw)
    blend = np.linspace(0, 1, SIDE)[:, None] if draw.random() < 0.5 else np.linspace(0, 1, SIDE)[None]
    background = back[0] + (back[1] - back[0]) * np.broadcast_to(blend, (SIDE, SIDE))[..., None]
    pixels = background + (ink - background) * shape[..., None]
    soft = Image.fromarray(pixels.round().astype(np.uint8)).filter(ImageFilter.GaussianBlur(draw.uniform(0, 1.2)))
    noisy = np.asarray(soft) + draw.normal(0, draw.uniform(0, 18), (SIDE, SIDE, 3))
    return Image.fromarray(noisy.round().clip(0, 255).astype(np.uint8))


def drawn(letter: str, file: Path, height: float, degrees: float, shift: np.ndarray) -> np.ndarray:
    "float [SIDE, SIDE]: 1 where the letter is, 0 elsewhere. `height`: its larger side, of the picture's."
    left, top, right, bottom = ImageFont.truetype(file, 200).getbbox(letter)
    font = ImageFont.truetype(file, 200 * height * 2 * SIDE / max(right - left, bottom - top))
    canvas = Image.new("L", (2 * SIDE, 2 * SIDE))  # at twice the size, for smooth edges
    left, top, right, bottom = font.getbbox(letter)
    middle = SIDE - (left + right) / 2 + shift[0] * 2 * SIDE, SIDE - (top + bottom) / 2 + shift[1] * 2 * SIDE
    ImageDraw.Draw(canvas).text(middle, letter, fill=255, font=font)
    canvas = canvas.rotate(degrees, Image.Resampling.BICUBIC).resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(canvas) / 255


def colours(draw: np.random.Generator) -> np.ndarray:
    "float [3, 3]: RGB of the letter and of the background's two ends, from each of which the letter differs."
    while True:
        found = draw.uniform(0, 255, (3, 3))
        ink, one, other = found @ BRIGHTNESS
        if min(abs(ink - one), abs(ink - other)) > CONTRAST and (ink > one) == (ink > other):
            return found


if __name__ == "__main__":
    if "--help" in sys.argv or len(sys.argv) != 2:
        sys.exit(print(__doc__))
    make(Path(sys.argv[1]))

"""How plots and photos of a page are drawn: colours, axes, PNG bytes, SVG in the page's colours, heatmaps, data URIs.

Figures are made directly, never through pyplot: no global state, no window, any number of threads.
"""

import base64
import io
import logging
import re
import warnings
from typing import Any

import matplotlib
import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

# Okabe and Ito's palette, which colour-blind readers can distinguish; the page replaces each by a CSS variable
BLUE, ORANGE, GREY, INK = "#0072b2", "#d55e00", "#9a9a9a", "#1b1b1b"
GREEN, PURPLE = "#009e73", "#cc79a7"
PAGE_COLOURS = {BLUE: "var(--blue)", ORANGE: "var(--orange)", GREY: "var(--grey)", INK: "currentColor"}
PAGE_COLOURS |= {GREEN: "var(--green)", PURPLE: "var(--purple)"}


def png(figure: Figure, tight: bool = False) -> bytes:
    "The figure as PNG, on white. tight: with the labels that lie outside of it."
    return _saved(figure, format="png", dpi=150, facecolor="white", bbox_inches="tight" if tight else None)


def svg(figure: Figure, name: str) -> str:
    "The figure as <svg>, without size, background or fonts of its own. Its ids start with `name`: unique on a page."
    with rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        text = _saved(figure, format="svg", transparent=True, metadata={"Date": None}).decode()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    prefix = re.sub(r"\W+", "-", name.lower())
    text = re.sub(r"<[^>]+>", lambda tag: _in_tag(tag[0], prefix), text)
    text = re.sub(r'<svg ([^>]*?)height="[^"]*"([^>]*?)width="[^"]*"', r"<svg \1\2", text, count=1)
    return text.replace("<svg ", '<svg aria-hidden="true" ', 1)


def _in_tag(tag: str, prefix: str) -> str:
    "The tag with ids of this figure alone, since every figure has a figure_1, and with the page's colours."
    tag = re.sub(r'(id="|href="#|url\(#)', rf"\1{prefix}-", tag)
    tag = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", tag)
    for colour, variable in PAGE_COLOURS.items():
        tag = tag.replace(colour, variable)
    return tag


def _saved(figure: Figure, **options: Any) -> bytes:
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a class name in a script the font lacks
        figure.savefig(buffer, pad_inches=0.05, **options)
    return buffer.getvalue()


def row_of(columns: int, height: float, below: float, left: float = 0.8) -> Figure:
    """A figure of `height` inches for a row of `columns` axes, 4 inches wide each, with room for their labels.

    below: inches under the axes, for ticks, label and legend. left: inches beside each of them.
    matplotlib's constrained layout finds the room by measuring each text several times: half of the time of a page.
    """
    right, above, width = 0.15, 0.32, 4.0 * columns
    figure, each = Figure(figsize=(width, height)), (width - columns * (left + right)) / columns
    figure.subplots_adjust(left=left / width, right=1 - right / width, wspace=(left + right) / each)
    figure.subplots_adjust(bottom=below / height, top=1 - above / height)
    return figure


def add_axes(figure: Figure, position: int, columns: int, title: str, xlabel: str) -> Axes:
    "Add the axes at `position` of a row of `columns`, with the page's grid and colours."
    axes = figure.add_subplot(1, columns, position)
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.set_xlabel(xlabel, color=INK, fontsize=10)
    axes.tick_params(colors=INK, labelsize=10)
    axes.set_axisbelow(True)
    axes.grid(color=GREY, alpha=0.3, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    return axes


def short(name: str, limit: int = 24) -> str:
    "`name` on one line of at most `limit` letters. A long one loses its middle: names often begin or end alike."
    name = re.sub(r"[\x00-\x1f\x7f]", " ", name)
    return name if len(name) <= limit else f"{name[: limit // 2]}…{name[limit // 2 + 1 - limit :]}"


# Photos


def data_uri(pixels: np.ndarray) -> str:
    "The photo uint8 RGB [height, width, 3] as the data URI of a JPEG."
    return _uri(Image.fromarray(pixels), "jpeg", quality=72)


def heat_uri(cells: np.ndarray) -> str:
    "A heatmap, uint8 [side, side], as the data URI of a PNG of as many pixels, to be stretched over its photo."
    return _uri(Image.fromarray(heat_colours(cells)), "png")


def _uri(image: Image.Image, kind: str, **options: int) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode()


def heat_colours(cells: np.ndarray) -> np.ndarray:
    "The colours of a heatmap, uint8 [side, side]: RGBA, uint8 [side, side, 4], from a dark veil to bright yellow."
    colours = matplotlib.colormaps["inferno"](cells)
    colours[..., 3] = 0.6
    return (colours * 255).round().astype(np.uint8)


def with_heat(photo: np.ndarray, cells: np.ndarray) -> np.ndarray:
    "The photo, uint8 RGB [size, size, 3], under its heatmap, uint8 [side, side]."
    smooth = Image.fromarray(cells).resize(photo.shape[1::-1], Image.Resampling.BILINEAR)
    under = Image.fromarray(photo).convert("RGBA")
    return np.array(Image.alpha_composite(under, Image.fromarray(heat_colours(np.array(smooth)))).convert("RGB"))

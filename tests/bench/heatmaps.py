"""Do heatmaps find what a network looks at? A planted square, by LayerCAM alone and by the toolkit's heatmaps.

    python tests/bench/heatmaps.py
    python tests/bench/heatmaps.py --shapes shapes

Small networks of timm are trained from scratch on noise with a square of a sixteenth of the image, whose colour is the
class. Printed: the share of 64 new images whose heatmap is brightest inside the square; chance is 6 %. With --shapes
FOLDER it writes the pictures of docs/explain.jpg instead: red, green and blue shapes, the colour is the class.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image, ImageDraw, ImageFilter
from torch.nn import functional as F

from toolkit.features.heatmaps.gradients import differentiable, watched
from toolkit.features.heatmaps.layer_cam import layer_cam
from toolkit.features.heatmaps.layers import as_grid, heatmap_layer, prefix_tokens

NETWORKS = {  # pixels of an image, steps of training, learning rate, further arguments
    "test_resnet": (64, 60, 3e-3, {}),
    "test_efficientnet": (64, 60, 5e-3, {}),
    "test_vit": (32, 100, 2e-3, {"img_size": 32, "patch_size": 4, "depth": 3}),
    "test_convnext": (64, 120, 3e-3, {}),
}


def planted(count: int, size: int, draws: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    "Noise with a square in red, green or blue: images, classes, and corners of the squares."
    images, square = torch.rand(count, 3, size, size, generator=draws), size // 4
    classes = torch.randint(0, 3, (count,), generator=draws)
    corners = torch.randint(0, size - square + 1, (count, 2), generator=draws)
    for image, colour, (row, column) in zip(images, classes, corners, strict=True):
        image[:, row : row + square, column : column + square] = 0
        image[colour, row : row + square, column : column + square] = 1
    return (images - 0.5) / 0.25, classes, corners


def trained(name: str) -> torch.nn.Module:
    size, steps, lr, given = NETWORKS[name]
    torch.manual_seed(0)
    model, draws = timm.create_model(name, num_classes=3, **given), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, steps)
    for _ in range(steps):
        images, classes, _ = planted(32, size, draws)
        optimizer.zero_grad()
        F.cross_entropy(model(images), classes).backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def plain_layer_cam(model: torch.nn.Module, images: torch.Tensor, layer: str, classes: torch.Tensor) -> torch.Tensor:
    "LayerCAM as published, for a layer that is known."
    with differentiable(model), watched(model, [layer]) as outputs:
        score = model(images).gather(1, classes[:, None]).sum()
        (gradient,) = torch.autograd.grad(score, outputs[layer])
    prefix = prefix_tokens(model)
    found = (as_grid(gradient, prefix).relu() * as_grid(outputs[layer].detach(), prefix)).sum(1).relu()
    return found / found.amax((1, 2), keepdim=True).clamp_min(1e-12)


def brightest_inside(heatmaps: torch.Tensor, size: int, corners: torch.Tensor) -> float:
    large, inside = F.interpolate(heatmaps[:, None], size, mode="bilinear")[:, 0], []
    for each, (row, column) in zip(large, corners.tolist(), strict=True):
        y, x = divmod(int(each.argmax()), size)
        inside.append(row <= y < row + size // 4 and column <= x < column + size // 4)
    return float(np.mean(inside))


def write_shapes(root: Path) -> None:
    "80 pictures of each colour to train and 30 to validate."
    draws = np.random.default_rng(0)
    for split, count in (("train", 80), ("val", 30)):
        for colour in ("red", "green", "blue"):
            (root / split / colour).mkdir(parents=True)
            for number in range(count):
                shape(colour, draws).save(root / split / colour / f"{number}.png")


def shape(colour: str, draws: np.random.Generator, side: int = 128) -> Image.Image:
    "A circle, a square or a triangle in a shade of the colour, and grey lines, on a blurred ground of pale colours."
    ground = draws.integers(110, 230, (4, 4, 3)).astype(np.uint8)
    picture = Image.fromarray(ground).resize((side, side), Image.Resampling.BICUBIC)
    draw, radius, sides = ImageDraw.Draw(picture), int(draws.integers(14, 22)), int(draws.integers(2, 5))
    for _ in range(8):
        draw.line(draws.integers(0, side, 4).tolist(), (int(draws.integers(40, 220)),) * 3, 4)
    x, y = draws.integers(radius + 12, side - radius - 12, 2).tolist()
    main, other = int(draws.integers(180, 256)), int(draws.integers(0, 90))
    shade = tuple(main if each == colour else other for each in ("red", "green", "blue"))
    if sides == 2:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), shade)
    else:
        draw.regular_polygon((x, y, int(1.2 * radius)), sides, int(draws.integers(0, 90)), shade)
    return picture.filter(ImageFilter.GaussianBlur(0.6))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", type=Path, help="folder to write the shapes to")
    given = parser.parse_args()
    if given.shapes:
        return write_shapes(given.shapes)
    for name, (size, *_) in NETWORKS.items():
        model = trained(name)
        images, classes, corners = planted(64, size, torch.Generator().manual_seed(1))
        layer, start = heatmap_layer(model, size), time.perf_counter()
        logits, ours = layer_cam(model, images, layer, classes)
        seconds = time.perf_counter() - start
        theirs = plain_layer_cam(model, images, layer, classes)
        plain, new = (brightest_inside(each, size, corners) for each in (theirs, ours))
        right = (logits.argmax(1) == classes).float().mean()
        print(f"{name:18} {layer:10} accuracy {right:.2f}  LayerCAM {plain:.2f}  this {new:.2f}  {seconds:.2f} s")


if __name__ == "__main__":
    main()

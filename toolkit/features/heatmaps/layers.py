"""The layer of a network that gives its heatmaps: its output is a map of the photo."""

import math

import torch
from torch import Tensor, nn

from toolkit.features.heatmaps.gradients import differentiable, watched

CELLS = 7
"The least cells in a row of a heatmap, if the network has a layer with as many: ImageNet's CNNs end with 7 x 7."


def heatmap_layer(model: nn.Module, size: int) -> str:
    """Return the name of the layer that gives the heatmaps of photos of `size` pixels.

    It is the last of timm's `feature_info` with CELLS or more cells in a row, else the one with the most. Its output
    must be a square grid, and the logits must depend on more than one cell of it (a class token takes nothing from the
    other tokens after the last block). A change in a quarter of the photo must change the same quarter of the grid
    most: a layer that has its cells in another order is not taken. Raises ValueError if there is no such layer.
    """
    photos, prefix = _one_and_its_changed_quarters(model, size), prefix_tokens(model)
    with differentiable(model), watched(model, _stages(model)) as outputs:
        logits = model(photos)
        found = {name: output for name, output in outputs.items() if as_grid(output, prefix) is not None}
        gradients = torch.autograd.grad(logits[:, 0].sum(), [*found.values()], allow_unused=True) if found else ()
    sides = {}
    for (name, output), gradient in zip(found.items(), gradients, strict=True):
        grid = as_grid(output.detach(), prefix)
        if gradient is not None and _depends(as_grid(gradient, prefix)) and _in_place(grid):
            sides[name] = grid.shape[-1]
    if not sides:
        raise ValueError(
            f"no layer of {type(model).__name__} has a map of a photo of {size} pixels that heatmaps could be made of; "
            "another --arch has"
        )
    fine = [name for name, side in sides.items() if side >= CELLS]
    return fine[-1] if fine else max(reversed(sides), key=sides.__getitem__)


def as_grid(output: object, prefix: int = 0) -> Tensor | None:
    """Return a layer's output as [batch, channels, side, side]; None if it is no square grid of 2 x 2 or more.

    output: [batch, channels, side, side], [batch, side, side, channels], or tokens [batch, prefix + side * side,
    channels], in which the `prefix` may be missing.
    """
    if not isinstance(output, Tensor) or output.ndim not in (3, 4):
        return None
    if output.ndim == 4:
        _, first, second, third = output.shape
        grid = output if second == third else output.permute(0, 3, 1, 2) if first == second else None
        return grid if grid is not None and grid.shape[-1] > 1 else None
    for before in (prefix, 0):
        side = math.isqrt(max(output.shape[1] - before, 0))
        if side > 1 and side * side == output.shape[1] - before:
            return output[:, before:].transpose(1, 2).unflatten(2, (side, side))
    return None


def _stages(model: nn.Module) -> list[str]:
    "The names of the layers in timm's `feature_info` that the model has."
    layers = dict(model.named_modules())
    named = [each["module"] for each in getattr(model, "feature_info", None) or [] if "module" in each]
    return [name for name in named if name and name in layers]


def prefix_tokens(model: nn.Module) -> int:
    "The number of tokens before those of the patches."
    return getattr(model, "num_prefix_tokens", None) or 0


def _one_and_its_changed_quarters(model: nn.Module, size: int) -> Tensor:
    "A photo of noise, and four of it with one quarter of other noise: float32 [5, 3, size, size]."
    noise = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    photos, half = noise[:1].repeat(5, 1, 1, 1), size // 2
    for photo, (rows, columns) in zip(photos[1:], _quarters(half), strict=True):
        photo[:, rows, columns] = noise[1][:, rows, columns]
    return photos.to(next(model.parameters()).device)


def _quarters(half: int) -> list[tuple[slice, slice]]:
    first, last = slice(0, half), slice(-half, None)
    return [(rows, columns) for rows in (first, last) for columns in (first, last)]


def _depends(gradient: Tensor) -> bool:
    "True if a gradient, [batch, channels, side, side], is not zero in more than one cell."
    return bool((gradient != 0).any(1).flatten(1).sum(1).min() > 1)


def _in_place(grid: Tensor) -> bool:
    "True if the change in each quarter of the photo changes that quarter of the grid, [5, channels, side, side], most."
    changes = (grid[1:] - grid[:1]).abs().sum(1)
    quarters = _quarters(grid.shape[-1] // 2)
    means = torch.stack([changes[:, rows, columns].mean((1, 2)) for rows, columns in quarters], 1)
    return means.argmax(1).tolist() == [0, 1, 2, 3]

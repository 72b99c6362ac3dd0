"""Show by heatmaps what a run's network looks at in photos.

    python -m export.explain RUN photos --out heatmaps

RUN is a run folder: heatmaps take gradients, and a model.onnx has none. IMAGES are given as to export.predict. The
folder gets a picture of each photo, an index.csv, and an index.html with all of them.
"""

from pathlib import Path
from typing import Annotated

import numpy as np

from export.explanations.network import Explained, Network, explain_all, opened
from export.predictions.formats import Unread
from export.predictions.inputs import Named, named_photos
from export.runtime.progress import print_line, with_bar
from toolkit.command import run_script
from toolkit.files import write_csv
from toolkit.run import Run, load

COLUMNS = "image_name pred_label confidence explained probability file".split()
ON_PAGE = 500  # photos at most in index.html: some 5 MB


def exit_status(unread: list) -> int:
    "2 if photos could not be read, else 0."
    return 2 if unread else 0


def explain(
    run: Path,  # run folder with its best.safetensors
    images: str,  # a folder, a photo, a quoted glob or a .txt file of paths
    out: Path = Path("heatmaps"),  # folder to write: new or empty
    label: str | None = None,  # the class to explain in every photo (default: the one predicted for it)
    limit: int | None = None,  # photos at most, spread evenly over all
    device: Annotated[str, {"choices": ("auto", "cuda", "cpu")}] = "auto",  # where the network runs
) -> Unread:
    """Write heatmaps of photos, by LayerCAM: how much each part of a photo speaks for a class.

    Returns the photos that can't be read, as (image_name, path, reason): they keep their row in index.csv and make the
    command's exit status 2. Raises FileExistsError if `out` holds something, ValueError for a class that the run does
    not know and for a network that has no layer for heatmaps; nothing is written then.
    """
    trained, out = load(run), Path(out)
    check_new(out)
    photos = evenly(named_photos(images), limit)
    return _write(trained, opened(trained, label, device), photos, out)


def check_new(out: Path) -> None:
    "Raises NotADirectoryError if `out` is a file, FileExistsError if it holds something."
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"--out {out} is a file: give a folder for the heatmaps, new or empty")
    if first := next(iter(sorted(out.glob("*"))), None):
        raise FileExistsError(f"--out {out} holds {first.name}: give a new or empty folder")


def evenly(photos: Named, limit: int | None) -> Named:
    "At most `limit` of the photos, spread evenly. Raises ValueError below 1."
    if limit is None or limit >= len(photos):
        return photos
    if limit < 1:
        raise ValueError(f"--limit {limit}: give 1 or more")
    return [photos[index] for index in np.linspace(0, len(photos) - 1, limit).round().astype(int)]


def _write(run: Run, network: Network, photos: Named, out: Path) -> Unread:
    "Write all files. Returns the photos that can't be read, of which each also gets a line on stderr."
    from export.explanations.pictures import on_page, picture_files, write_page, write_picture

    files, unread, shown, rows = picture_files([name for name, _ in photos]), [], [], []
    results = with_bar(explain_all(network, photos), 0, len(photos))
    for (name, path), file, result in zip(photos, files, results, strict=True):
        if isinstance(result, Exception):
            reason = " ".join(str(result).removeprefix(f"{path}: ").split())
            print_line(f"{path}: {reason}")
            unread.append((name, path, reason))
            rows.append([name, *[""] * (len(COLUMNS) - 1)])
            continue
        write_picture(out / file, name, result)
        rows.append([name, *_cells(result), file])
        if len(shown) < ON_PAGE:
            shown.append(on_page(name, file, result))
    write_csv(out / "index.csv", COLUMNS, rows)
    explained = len(rows) - len(unread)
    write_page(out / "index.html", run, network, shown, explained, unread)
    print(f"{explained} heatmaps of layer {network.layer} -> {out / 'index.html'}", flush=True)
    return unread


def _cells(photo: Explained) -> list[str]:
    return [photo.prediction, f"{photo.confidence:.6f}", photo.explained, f"{photo.probability:.6f}"]


if __name__ == "__main__":
    run_script(explain, status=exit_status)

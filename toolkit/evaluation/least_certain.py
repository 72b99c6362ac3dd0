"""The test photos of a run that its model is least certain about, for people to look at."""

from pathlib import Path

from toolkit.data.dataset import DataSet
from toolkit.data.on_disk.photo_files import root_of
from toolkit.evaluation.mistakes import thumbnails
from toolkit.files import read_csv, write_csv
from toolkit.run import Run

FILE, COLUMNS = "least_certain.csv", ["file", "prediction", "confidence"]


def write_least_certain(run: Run, data: DataSet, photos: list[tuple[Path, str, float]]) -> None:
    "Write photos with their predictions and confidences, the least certain first."
    rows = [[data.relative(photo), prediction, f"{confidence:.6f}"] for photo, prediction, confidence in photos]
    write_csv(run.path(FILE), COLUMNS, rows)


def read_least_certain(run: Run) -> list[dict]:
    """Return the photos as dicts for the page: file, prediction, confidence, pixels (None if it can't be read).

    Empty if the run has labelled no test photos. Raises ValueError if the file has other columns, or a confidence that
    is no number.
    """
    path = run.path(FILE)
    if not path.is_file():
        return []
    _, *rows = read_csv(path, COLUMNS)
    small = thumbnails(root_of(run.recipe["data"]["path"]), {file for file, *_ in rows}, run.recipe["preprocess"])
    try:
        return [
            {"file": file, "prediction": prediction, "confidence": float(confidence), "pixels": small.get(file)}
            for file, prediction, confidence in rows
        ]
    except ValueError as error:
        raise ValueError(f"{path} has a confidence that is no number ({error}): remove it") from error

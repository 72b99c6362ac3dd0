"""The test photos of a run: its model labels them, and its page shows the least certain ones."""

from export.predictions.formats import Unread
from export.predictions.local import predict_here
from export.predictions.options import PredictOptions
from export.predictions.unsure import least_certain
from toolkit.data.dataset import DataSet
from toolkit.evaluation.least_certain import write_least_certain
from toolkit.evaluation.mistakes import GALLERY
from toolkit.run import Run


def predict_test_photos(run: Run, data: DataSet, device: str) -> Unread:
    """Write predictions.csv and least_certain.csv of the test photos of `data`; the run's page shows the latter.

    Without test photos nothing is written. Returns the photos that can't be read, as `export.predict.predict` does.
    """
    if not data.test:
        return []
    return predict_here(
        [run.path("model.onnx")],
        data.test,
        PredictOptions(run.path("predictions.csv"), device),
        look=lambda rows, photos: write_least_certain(run, data, least_certain(rows, photos, GALLERY)),
    )

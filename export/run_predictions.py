"""The test photos of a run: its model labels them, and its page shows the least certain ones."""

from collections.abc import Iterable

from export.predictions.formats import Unread
from export.predictions.inputs import Named
from export.predictions.journal import Row
from export.predictions.local import predict_here
from export.predictions.options import PredictOptions
from export.predictions.unsure import least_certain
from toolkit.data.dataset import DataSet
from toolkit.evaluation.least_certain import FILE, write_least_certain
from toolkit.evaluation.mistakes import GALLERY
from toolkit.pages.run_page import write_report
from toolkit.run import Run


def predict_test_photos(run: Run, data: DataSet, device: str) -> Unread:
    """Write predictions.csv and least_certain.csv of the test photos of `data`, if there are any, then the run's page.

    If the test photos are gone, their least_certain.csv goes too, and a line says that predictions.csv is an old one.
    Returns the photos that can't be read, as `export.predict.predict` does. If it raises, the page is written too.
    """
    options = PredictOptions(run.path("predictions.csv"), device)

    def look(rows: Iterable[Row], photos: Named) -> None:
        write_least_certain(run, data, least_certain(rows, photos, GALLERY))

    try:
        if data.test:
            return predict_here([run.path("model.onnx")], data.test, options, look=look)
        if run.path(FILE).is_file():
            run.path(FILE).unlink()
            print(f"{run.path('predictions.csv')} labels earlier test photos, which are gone", flush=True)
        return []
    finally:
        write_report(run)

"""Label photos with a model file alone, and write predictions.csv.

    python -m export.predict model.onnx photos --out predictions.csv
    python -m export.predict a.onnx b.onnx photos --out predictions.csv

IMAGES is a folder, a photo, a quoted glob or a .txt file of paths. export/predictions/inputs.py says how each photo is
named, export/predictions/columns.py which columns there are. Rows are in natural order of the name.

While it runs, finished rows are kept in predictions.csv.partial. If it is killed at any moment, the same command with
--resume continues from there and writes the same files, byte for byte, as a run that was not killed. predictions.csv
appears whole, at the end; until then it grows in a hidden file beside it, which the next run to that file removes if
this one was killed. Without --resume an unfinished run starts anew, and a line says so.
"""

from pathlib import Path

from export.predictions.formats import Unread
from export.predictions.local import predict_here
from export.predictions.options import PredictOptions, check_engine, with_keywords
from toolkit.command import run_script


def exit_status(unread: list) -> int:
    "2 if photos could not be read, else 0: the exit status of `predict`, and of a recipe that ends with it."
    return 2 if unread else 0


@with_keywords
def predict(
    model: list[Path],  # model.onnx; nothing else is needed. Several: the mean of their probabilities
    images: str,  # a folder, a photo, a quoted glob, a .txt file of paths; with --engine ray also URIs
    options: PredictOptions,
) -> Unread:
    """Label photos with a model.onnx and write predictions.csv.

    Of several models of the same classes each photo gets the mean of their probabilities. From Python, `model` may be a
    single path and `images` a dict, path by name. Returns the photos that can't be read, as (image_name, path,
    reason): they keep their row, are listed on stderr and in predictions.errors.csv beside it, and make the command's
    exit status 2.
    Raises ValueError or OSError, and leaves `out` as it was, if model, device, images or `out` can't be used, and if
    `resume` finds the work of another model, other images or other options; the message names which.
    """
    models = [Path(model)] if isinstance(model, str | Path) else [Path(each) for each in model]
    check_engine(options, images, len(models))
    if options.engine == "ray":
        from export.cluster.engine import predict_on_cluster

        return predict_on_cluster(models[0], images, options)
    return predict_here(models, images, options)


if __name__ == "__main__":
    run_script(predict, status=exit_status)

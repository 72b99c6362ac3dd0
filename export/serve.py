"""Answer over HTTP with a model file: photos in, labels and calibrated probabilities out.

    python -m export.serve model.onnx
    curl --data-binary @photo.jpg http://127.0.0.1:8000/predict

docs/serving.md has the routes, the limits, and how to let other machines ask.
"""

from pathlib import Path

from export.serving.options import ServeOptions
from toolkit.command import run_script
from toolkit.commandline.spread import with_keywords


@with_keywords(ServeOptions)
def serve(
    model: list[Path],  # model.onnx; nothing else is needed. Several: the mean of their probabilities
    options: ServeOptions,
) -> None:
    """Answer over HTTP with a model.onnx, until Ctrl-C.

    Raises ImportError if the server's libraries are missing, and as `export.serving.server.serve_models` does.
    """
    check_libraries()
    from export.serving.server import serve_models

    serve_models([model] if isinstance(model, Path) else model, options)


def check_libraries() -> None:
    "Raises ImportError, with the line that installs them, if a library of the extra `serve` is missing."
    try:
        import httptools  # noqa: F401
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ImportError(f"export.serve needs {error.name}: pip install 'rapid-finetune[serve]'") from None


if __name__ == "__main__":
    run_script(serve)

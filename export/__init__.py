"""Reads a run folder or a model.onnx. Imports toolkit first, which sees to Ctrl-C while libraries are imported."""

import toolkit  # noqa: F401

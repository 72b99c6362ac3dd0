"The bytes of a model file -> a session on a device that is to be had, on which it then really runs."

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from export.card import check_interface, first_line
from export.device import PROVIDERS, tensorrt_version

if TYPE_CHECKING:
    import onnxruntime


def opened(model: str | Path, data: bytes, device: str, threads: int | None = None) -> "onnxruntime.InferenceSession":
    """A session of the file `data`, which stood at `model`, on cpu, cuda or tensorrt.

    threads: how many the CPU computes with; None for one a core.
    Raises ValueError where it is not a model of ours, and where it would run elsewhere.
    """
    try:
        options = _tensorrt_options(data) if device == "tensorrt" else {}
        providers = [(name, options if name.startswith("Tensorrt") else {}) for name in PROVIDERS[device]]
        session = _session(data, providers, threads)
    except OSError:  # of the cache folder
        raise
    except Exception as error:  # onnxruntime's exceptions have no base of their own
        raise ValueError(
            f"{model} is not a model that onnxruntime can load on {device}: {first_line(error)}"
        ) from error
    if session.get_providers()[0] != PROVIDERS[device][0]:  # it falls back without an error
        raise ValueError(f"device {device}: onnxruntime loaded the model on {session.get_providers()[0]} instead")
    check_interface(session, model)
    return session


def device_of(session: "onnxruntime.InferenceSession") -> str:
    "cpu, cuda or tensorrt: where the session really runs."
    return next(device for device, names in PROVIDERS.items() if names[0] == session.get_providers()[0])


def _session(data: bytes, providers: list, threads: int | None) -> "onnxruntime.InferenceSession":
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised; the log would say it a second time
    options.intra_op_num_threads = threads or 0
    options.add_session_config_entry("session.load_model_format", "ONNX")
    # threads that spin while they wait take the cores from those that decode: 145 images/s, not 108, on 2 cores
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(data, options, providers, enable_fallback=0)
    session._model_bytes = None  # onnxruntime 1.31 would keep them as long as the session, for a fallback that is off
    return session


def tensorrt_options(checksum: str, precision: str, version: int) -> dict[str, str]:
    """Of onnxruntime's TensorRT provider: engines, which take minutes to build, are kept in the user's cache folder.

    They are of one model file, one TensorRT and one onnxruntime. It computes in the precision that the file has.
    Source: https://onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html
    """
    import onnxruntime
    from fastcore.xdg import xdg_cache_home

    name = f"{checksum[:32]}-{version}-{onnxruntime.__version__}"
    folder = xdg_cache_home() / "rapid-finetune" / "tensorrt" / name
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return {
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(folder),
        "trt_fp16_enable": str(precision == "fp16"),
        "trt_int8_enable": str(precision == "int8"),
    }


def _tensorrt_options(data: bytes) -> dict[str, str]:
    "Of the file's metadata only a session tells, and TensorRT's is made with these options: so one on the CPU first."
    said = _session(data, [("CPUExecutionProvider", {})], 1).get_modelmeta().custom_metadata_map
    precision = json.loads(said.get("precision", '"fp32"'))
    return tensorrt_options(hashlib.sha256(data).hexdigest(), precision, tensorrt_version())

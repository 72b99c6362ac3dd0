"""Open the bytes of a model file as a session that really runs on the device asked for."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from export.runtime.metadata import check_interface
from export.runtime.providers import PROVIDERS, tensorrt_version
from toolkit.data.on_disk.photo_files import SUFFIXES
from toolkit.errors import first_few, first_line

if TYPE_CHECKING:
    import onnxruntime


CUDA_VARIANTS = {
    "plain": {},  # onnxruntime's defaults: NCHW, cuDNN's search EXHAUSTIVE at the first batch of each shape
    "nhwc": {"prefer_nhwc": "1"},
    "heuristic": {"cudnn_conv_algo_search": "HEURISTIC"},
    "nhwc heuristic": {"prefer_nhwc": "1", "cudnn_conv_algo_search": "HEURISTIC"},
    "graph": {"enable_cuda_graph": "1"},  # one run at a time, inputs and outputs at fixed places on the device
    "nhwc graph": {"prefer_nhwc": "1", "enable_cuda_graph": "1"},
    "no tf32": {"use_tf32": "0"},
}
"""Options of onnxruntime's CUDA provider, by a name; `tests/bench/predict.py alone` compares them.

Source: https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html
"""

OTHERS = dict.fromkeys(SUFFIXES, "quote a glob of photos, as in 'photos/*.jpg'")
OTHERS |= dict.fromkeys((".safetensors", ".pt", ".pth"), "give the run's model.onnx")
"What to do about a file that is no model, by its suffix."

OF_SIZES = set(
    "Shape Size Constant ConstantOfShape Identity Cast Gather Concat Slice Split Squeeze Unsqueeze Reshape Expand "
    "Range Add Sub Mul Div Mod Min Max Floor Ceil Neg Abs ReduceProd ReduceMax ReduceMin Equal Less Greater And Or Not "
    "Where Tile ScatterND DequantizeLinear".split()
)
"""Operators that compute sizes. onnxruntime runs them on the CPU on any device, because that is faster: all our files
have such nodes, as their batch size is free, so `session.disable_cpu_ep_fallback` would refuse every file. CUDA has all
of these operators too, so one on the CPU computes sizes. A DequantizeLinear on the CPU is that of a bias, in int32."""

BY_PRECISION, OTHERWISE = {"fp16": "nhwc heuristic"}, "heuristic"
"""The variant for files of a precision, and the one for all others, whose speed has not been measured. On an H100 a
resnet152 in float16 labelled 8,742 images/s by it, 8,704 with cuDNN's search, 5,700 by onnxruntime's defaults, 7,638 as
a CUDA graph; torch in float16 and channels last 6,430. The search took 0.1 to 0.8 s at the first batch (LOG.md, 26 Nov
2026). `fuse_conv_bias` changed nothing on an H200 (28 Nov 2026).
"""


def opened(model: str | Path, data: bytes, device: str, threads: int | None = None) -> "onnxruntime.InferenceSession":
    """Open the file content `data`, read from `model`, as a session on cpu, cuda or tensorrt.

    threads: threads with which the CPU computes; None for one per core.
    Raises ValueError if it is not a model of ours, and if the model or a part of it would run on another device.
    """
    try:
        session = session_of(data, providers_of(data, device), threads)
    except OSError:  # the cache folder
        raise
    except Exception as error:  # onnxruntime's exceptions have no common base
        if remedy := OTHERS.get(Path(model).suffix.lower()):
            raise ValueError(f"{model} stands where a model.onnx is expected: {remedy}") from error
        raise ValueError(
            f"{model} is not a model that onnxruntime can load on {device}: {first_line(error)}"
        ) from error
    if session.get_providers()[0] != PROVIDERS[device][0]:  # it falls back without an error
        raise ValueError(f"device {device}: onnxruntime loaded the model on {session.get_providers()[0]} instead")
    if device == "tensorrt" and not parts_on(session, PROVIDERS[device][0]):  # it leaves what it can't parse to CUDA
        raise ValueError(f"device {device}: TensorRT takes no part of {model}; choose cuda")
    if device != "cpu" and (nodes := nodes_on_cpu(session)):
        raise ValueError(
            f"device {device}: onnxruntime would run {first_few(nodes)} of {model} on the CPU: "
            "choose cpu for all of it, or export the model in another --precision"
        )
    check_interface(session, model)
    return session


def nodes_on_cpu(session: "onnxruntime.InferenceSession") -> list[str]:
    "The nodes of a session on a GPU that fell back to the CPU: operator, and name if there is one."
    parts = parts_on(session, "CPUExecutionProvider")
    nodes = [node for part in parts for node in part.get_nodes() if node.op_type not in OF_SIZES]
    return [f"{node.op_type} {node.name}".strip() for node in nodes]


def parts_on(session: "onnxruntime.InferenceSession", provider: str) -> list:
    "The parts of the graph that run on onnxruntime's `provider`."
    return [part for part in session.get_provider_graph_assignment_info() if part.ep_name == provider]


def device_of(session: "onnxruntime.InferenceSession") -> str:
    "The device on which the session really runs: cpu, cuda or tensorrt."
    return next(device for device, names in PROVIDERS.items() if names[0] == session.get_providers()[0])


def providers_of(data: bytes, device: str, variant: str | None = None) -> list[tuple[str, dict[str, str]]]:
    "onnxruntime's providers for `device`, with options. variant: one of CUDA_VARIANTS; None: by the file's precision."
    if device == "cpu":
        return [(name, {}) for name in PROVIDERS[device]]
    variant = variant or BY_PRECISION.get(_precision(data), OTHERWISE)
    options = {"CUDAExecutionProvider": CUDA_VARIANTS[variant]}
    if device == "tensorrt":
        checksum = hashlib.sha256(data).hexdigest()
        options["TensorrtExecutionProvider"] = tensorrt_options(checksum, _precision(data), tensorrt_version())
    return [(name, options.get(name, {})) for name in PROVIDERS[device]]


def session_of(
    data: bytes, providers: list, threads: int | None, batch: int | None = None, optimised: bool = True
) -> "onnxruntime.InferenceSession":
    "A session. batch: a fixed batch size, as a CUDA graph needs. optimised: to run it, not only to read its metadata."
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if batch is not None:
        options.add_free_dimension_override_by_name("batch", batch)
    options.log_severity_level = 4  # errors are raised; the log would repeat them
    options.intra_op_num_threads = threads or 0
    options.add_session_config_entry("session.load_model_format", "ONNX")
    # threads that spin while they wait take cores from the threads that decode: 108 images/s, else 145, on 2 cores
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if providers[0][0] != "CPUExecutionProvider":
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")  # for `nodes_on_cpu`
    session = onnxruntime.InferenceSession(data, options, providers, enable_fallback=0)
    session._model_bytes = None  # onnxruntime 1.31 would keep them as long as the session, for a fallback that is off
    return session


def tensorrt_options(checksum: str, precision: str, version: int) -> dict[str, str]:
    """Options of onnxruntime's TensorRT provider, which keeps engines, that take minutes to build, in a cache folder.

    An engine belongs to one model file, one TensorRT and one onnxruntime. It computes in the precision of the file.
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


def _precision(data: bytes) -> str:
    "fp32, fp16 or int8, from the file's metadata. Only a session reads them: one on the CPU, in 0.2 s for 117 MB."
    session = session_of(data, [("CPUExecutionProvider", {})], 1, optimised=False)
    return json.loads(session.get_modelmeta().custom_metadata_map.get("precision", '"fp32"'))

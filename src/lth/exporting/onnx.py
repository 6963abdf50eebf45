"""Write a policy as an ONNX model: input `observation`, output `action`, any batch size.

The nodes are built with the `onnx` package directly, so the file does not depend on the version of JAX or of a tracer.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import InputError
from .network import NORM_EPSILON, Network, halves

OPSET = 17
"""The first opset with LayerNormalization."""
IR_VERSION = 8


def emit(network: Network, about: Mapping[str, Any]) -> bytes:
    """Return an ONNX model.

    Args:
        network: a policy.
        about: the contract for the model's metadata: strings unchanged, other values as JSON.

    Returns:
        A model from `observation` (batch, observation_dim) float32 to `action`, (batch, actions) float32, or (batch,) int64.

    Raises:
        InputError: the package `onnx` is not installed.
    """
    onnx = import_onnx()
    make, tensor = onnx.helper.make_node, onnx.numpy_helper.from_array
    nodes: list[Any] = []
    constants: list[Any] = []
    at = "observation"

    def constant(name: str, value: Any, dtype: Any = np.float32) -> str:
        constants.append(tensor(np.asarray(value, dtype), name))
        return name

    def add(kind: str, *inputs: str, **how: Any) -> str:
        name = f"{kind.lower()}_{len(nodes)}"
        nodes.append(make(kind, list(inputs), [name], name=name, **how))
        return name

    if len(network.reads) < network.observation_dim:
        at = add("Gather", at, constant("reads", network.reads, np.int64), axis=1)
    if network.normalizes:
        at = add("Mul", add("Sub", at, constant("mean", network.mean)), constant("scale", network.scale))
    if np.isfinite(network.clip):
        at = add("Clip", at, constant("clip_low", -network.clip), constant("clip_high", network.clip))
    for i, layer in enumerate(network.layers):
        at = add("Gemm", at, constant(f"kernel_{i}", layer.kernel), constant(f"bias_{i}", layer.bias))
        if layer.norm is not None:
            scale, shift = (constant(f"norm_{i}_{j}", value) for j, value in enumerate(layer.norm))
            at = add("LayerNormalization", at, scale, shift, axis=-1, epsilon=NORM_EPSILON)
        if i < len(network.layers) - 1:
            at = add({"relu": "Relu", "tanh": "Tanh"}[network.activation], at)
    if network.squash == "argmax":
        at = add("ArgMax", at, axis=1, keepdims=0)
        if network.first_action:
            at = add("Add", at, constant("first_action", network.first_action, np.int64))
    if network.squash == "tanh":
        half, middle = halves(network)
        at = add("Add", add("Mul", add("Tanh", at), constant("half", half)), constant("middle", middle))
    if network.squash in ("tanh", "clip"):
        at = add("Min", add("Max", at, constant("low", network.low)), constant("high", network.high))
    nodes[-1].output[0] = "action"
    discrete = network.squash == "argmax"
    kind, shape = ("INT64", ["batch"]) if discrete else ("FLOAT", ["batch", network.actions])
    graph = onnx.helper.make_graph(
        nodes,
        "policy",
        [onnx.helper.make_tensor_value_info("observation", onnx.TensorProto.FLOAT, ["batch", network.observation_dim])],
        [onnx.helper.make_tensor_value_info("action", getattr(onnx.TensorProto, kind), shape)],
        constants,
    )
    opsets = [onnx.helper.make_opsetid("", OPSET)]
    model = onnx.helper.make_model(graph, producer_name="lth", opset_imports=opsets, ir_version=IR_VERSION)
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()}
    onnx.helper.set_model_props(model, texts)
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    return bytes(model.SerializeToString(deterministic=True))


def session(model: bytes) -> Any:
    """Return a function from observations (n, observation_dim) float32 to actions that runs ONNX Runtime on one thread.

    Raises:
        InputError: the package `onnxruntime` is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise _missing("onnxruntime", error) from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    found = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda observations: found.run(None, {"observation": observations})[0]


def import_onnx() -> Any:
    """Return the package `onnx`.

    Raises:
        InputError: it is not installed.
    """
    try:
        import onnx
        import onnx.checker
        import onnx.helper
        import onnx.numpy_helper
        import onnx.shape_inference
    except ImportError as error:
        raise _missing("onnx", error) from None
    return onnx


def _missing(package: str, error: ImportError) -> InputError:
    return InputError(
        f"ONNX export needs the package {package} ({error}). Install it with pip install 'lth[export]', or export "
        "C or NumPy: --to c, --to numpy"
    )

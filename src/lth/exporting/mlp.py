"""`lth.export_mlp`: write any chain of dense layers as checked programs, independent of reinforcement learning."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import jax
import numpy as np

from .. import __version__
from ..envs import Interface
from ..errors import InputError, nearest
from ..precision import in_float32
from ..pruning.chains import is_chain, read_chain
from ..pruning.structure import check_chain
from ..types import ArrayLike, Params
from .build import build
from .network import UNKNOWN, Activation, Layer, Network, Squash, dense, finish, numbers, run
from .subjects import Subject
from .write import Export, formats_of, write


@in_float32
def export_mlp(
    params: Params,
    out: str | Path,
    to: str | Sequence[str] = "all",
    *,
    activation: Activation = "relu",
    squash: Squash = "none",
    low: ArrayLike | None = None,
    high: ArrayLike | None = None,
    mean: ArrayLike | None = None,
    std: ArrayLike | None = None,
    clip: float | None = None,
    order: Sequence[str] | None = None,
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
    examples: ArrayLike | None = None,
    apply: Callable[[Params, Any], Any] | None = None,
    quantize: str | None = None,
) -> Export:
    """Write a network of dense layers as checked programs in C, ONNX and NumPy.

    >>> lth.export_mlp(params, "policy", apply=model.apply)  # doctest: +SKIP

    Args:
        params: parameters from Flax, Equinox, Haiku or NNX, or a list of (kernel (inputs, outputs), bias (outputs,)). Pruned
            weights are zero.
        out: the output folder; other formats of the same network that are there stay (see `lth.export`).
        to: see `lth.export`.
        activation: the activation between layers, "relu" or "tanh".
        squash: the output transform: "none"; "tanh" to [low, high]; "clip" to [low, high]; "argmax", the largest output.
        low: the lower bound of each output, or of all; None: -1. Only for the squashes "tanh" and "clip", as is `high`.
        high: the upper bound; None: 1.
        mean: subtracted from each input first; None: 0.
        std: inputs are then divided by it; None: 1.
        clip: inputs are then clipped to [-clip, clip]; None: no clipping.
        order: the layer names in the order in which they are applied, if it does not follow from names or shapes. Not for a list
            of pairs, which is in order.
        inputs: the name of each input.
        outputs: the name of each output.
        examples: inputs on which programs are compared, (n, inputs); None: 200 from a standard normal distribution.
        apply: the original network, (params, x (n, inputs)) -> (n, outputs), with which programs are compared. It is applied after
            normalization of the inputs and before `squash`. None: the same chain in NumPy.
        quantize: see `lth.export`.

    Returns:
        What was written, as for `lth.export`.

    Raises:
        InputError: `params` is not a chain of dense layers of finite real numbers, an argument does not fit it or has no effect,
            or an example's outputs are not finite.
        ExportError: a program does not reproduce the network's outputs; nothing is written.
    """
    formats, skip = formats_of(to, quantize)
    for name, value, known in (("activation", activation, get_args(Activation)), ("squash", squash, get_args(Squash))):
        if value not in known:
            raise InputError(f"unknown {name} {value!r}; choose from {', '.join(known)}{nearest(str(value), known)}")
    layers = _layers(params, order)
    n, m = layers[0].kernel.shape[0], layers[-1].kernel.shape[1]
    lowest, highest = _bounds(squash, low, high, m)
    network = Network(
        observation_dim=n,
        reads=np.arange(n),
        mean=_each("mean", 0.0 if mean is None else mean, n),
        scale=_scale(1.0 if std is None else std, n),
        clip=_clip(clip),
        layers=layers,
        activation=activation,
        squash=squash,
        low=lowest,
        high=highest,
    )
    anything = np.full(n, np.inf, np.float32)
    subject = Subject(
        network=network,
        act=(lambda x: run(network, x)) if apply is None else _with(network, params, apply),
        make_env=None,
        interface=Interface(-anything, anything, network.low, network.high),
        observations=_names("inputs", inputs, n, "input"),
        actions=_names("outputs", outputs, m, "output"),
        title="a network of dense layers",
        about={"task": "", "versions": {"lth": __version__, "numpy": np.__version__}},
        examples=None if examples is None else _examples(examples, n),
        cause=f"The likely cause is that activation={activation!r}, `order` or squash={squash!r} does not match `apply`, which "
        "takes normalized inputs and returns the outputs before `squash`.",
    )
    return write(Path(out), build(subject, formats, quantize is not None, 0, skip))


def _with(network: Network, params: Params, apply: Callable[[Params, Any], Any]) -> Callable[[np.ndarray], np.ndarray]:
    found: Any = jax.eval_shape(apply, params, jax.ShapeDtypeStruct((2, network.observation_dim), np.float32))
    shape, dtype = getattr(found, "shape", None), getattr(found, "dtype", type(found).__name__)
    if shape is None or np.prod(shape) != 2 * network.actions or np.issubdtype(dtype, np.complexfloating):
        raise InputError(
            f"apply returned {dtype} {shape} for 2 inputs, but the layers of params compute real numbers of the shape "
            f"{(2, network.actions)}; pass (params, x (n, inputs)) -> (n, outputs) of this network alone"
        )
    compiled = jax.jit(apply)

    def act(x: np.ndarray) -> np.ndarray:
        x = np.clip((x - network.mean) * network.scale, -network.clip, network.clip)
        return finish(network, np.asarray(compiled(params, x), np.float32).reshape(len(x), -1))

    return act


def _layers(params: Params, order: Sequence[str] | None) -> tuple[Layer, ...]:
    chain = params if is_chain(params, order) else read_chain(params, order).chain
    layers = tuple(dense(i, kernel, bias) for i, (kernel, bias) in enumerate(chain))
    check_chain([(layer.kernel, layer.bias) for layer in layers])
    if not layers or not all(layer.kernel.size for layer in layers):
        raise InputError(
            f"params has kernels of the shapes {[layer.kernel.shape for layer in layers]}, but a network has at least one layer, "
            "and each layer has inputs and units"
        )
    return layers


def _bounds(squash: Squash, low: ArrayLike | None, high: ArrayLike | None, m: int) -> tuple[np.ndarray, np.ndarray]:
    if squash not in ("tanh", "clip"):
        for name, value in (("low", low), ("high", high)):
            if value is not None:
                raise InputError(f"{name} has no effect with squash={squash!r}; it needs squash='tanh' or 'clip'")
        return np.zeros(0, np.float32), np.zeros(0, np.float32)
    unbounded = "To leave outputs unbounded, use squash='none'"
    lowest = _each("low", -1.0 if low is None else low, m, unbounded)
    highest = _each("high", 1.0 if high is None else high, m, unbounded)
    if not (lowest <= highest).all():
        at = int(np.argmax(lowest > highest))
        raise InputError(
            f"low is {lowest[at]:g} and high is {highest[at]:g} at output {at}, but low must not exceed high (by default they are "
            "-1 and 1)"
        )
    with np.errstate(over="ignore"):
        finite = np.isfinite([highest - lowest, highest + lowest]).all()
    if not finite:
        raise InputError(f"high - low or high + low exceeds float32. {unbounded}")
    return lowest, highest


def _scale(std: ArrayLike, n: int) -> np.ndarray:
    array, least = _each("std", std, n), np.finfo(np.float32).tiny
    wrong = np.flatnonzero(array < least)
    if len(wrong):
        raise InputError(
            f"std is {array[wrong[0]]:g} at input {wrong[0]}, but must be at least {least:.2g}, because inputs are divided by it; "
            "for an input that never varies, use 1"
        )
    return np.float32(1) / array


def _clip(clip: float | None) -> float:
    if clip is None or (isinstance(clip, float | np.floating) and clip == np.inf):
        return np.inf
    array = numbers("clip", clip, "To clip nothing, use None")
    if array.shape or not array > 0:
        raise InputError(f"clip is {clip!r}, but must be one positive number: inputs are clipped to [-clip, clip]")
    return float(array)


def _examples(examples: ArrayLike, n: int) -> np.ndarray:
    array = numbers("examples", examples, "Leave out rows with such numbers")
    if array.ndim != 2 or array.shape[1] != n or not len(array):
        raise InputError(f"examples have shape {array.shape}, but the network needs (n, {n}) with at least one row")
    return array


def _each(name: str, value: ArrayLike, n: int, hint: str = UNKNOWN) -> np.ndarray:
    array = numbers(name, value, hint)
    if array.shape not in ((), (n,)):
        raise InputError(f"{name} has shape {array.shape}, but must be one number or {n} of them")
    return np.broadcast_to(array, (n,)).copy()


def _names(name: str, given: Sequence[str], n: int, word: str) -> list[str]:
    if given and len(given) != n:
        raise InputError(f"{name} has {len(given)} names, but needs {n}")
    return list(given) or [f"{word} {i}" for i in range(n)]

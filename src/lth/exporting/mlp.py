"""`lth.export_mlp`: write any chain of dense layers as checked programs, independent of reinforcement learning."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import jax
import numpy as np
from numpy.typing import ArrayLike

from .. import __version__
from ..envs import Interface
from ..errors import InputError, nearest
from ..precision import in_float32
from ..pruning.chains import read_chain
from ..types import Params
from .build import build
from .network import Activation, Layer, Network, Squash, finish, run
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
        out: the output folder.
        to: see `lth.export`.
        activation: the activation between layers, "relu" or "tanh".
        squash: the output transform: "none"; "tanh" to [low, high]; "clip" to [low, high]; "argmax", the largest output.
        low: the lower bound of each output, or of all; None: -1.
        high: the upper bound; None: 1.
        mean: subtracted from each input first; None: 0.
        std: inputs are then divided by it; None: 1.
        clip: inputs are then clipped to [-clip, clip]; None: no clipping.
        order: the layer names in the order in which they are applied, if it does not follow from names or shapes.
        inputs: the name of each input.
        outputs: the name of each output.
        examples: inputs on which programs are compared, (n, inputs); None: 200 from a standard normal distribution.
        apply: the original network, (params, x (n, inputs)) -> (n, outputs), with which programs are compared. It is applied after
            normalization of the inputs and before `squash`. None: the same chain in NumPy.
        quantize: see `lth.export`.

    Returns:
        What was written, as for `lth.export`.

    Raises:
        InputError: `params` is not a chain of dense layers, or an argument does not fit it.
        ExportError: a program does not reproduce the network's outputs; nothing is written.
    """
    formats, skip = formats_of(to, quantize)
    for name, value, known in (("activation", activation, get_args(Activation)), ("squash", squash, get_args(Squash))):
        if value not in known:
            raise InputError(f"unknown {name} {value!r}; choose from {', '.join(known)}{nearest(value, known)}")
    pairs = isinstance(params, list | tuple) and all(
        isinstance(pair, list | tuple) and len(pair) == 2 for pair in params
    )
    chain = params if pairs else read_chain(params, order).chain
    layers = tuple(Layer(np.asarray(kernel, np.float32), np.asarray(bias, np.float32)) for kernel, bias in chain)
    n, m = layers[0].kernel.shape[0], layers[-1].kernel.shape[1]
    bounded = squash in ("tanh", "clip")
    network = Network(
        observation_dim=n,
        reads=np.arange(n),
        mean=_each("mean", 0.0 if mean is None else mean, n),
        scale=1.0 / _each("std", 1.0 if std is None else std, n),
        clip=np.inf if clip is None else float(clip),
        layers=layers,
        activation=activation,
        squash=squash,
        low=_each("low", -1.0 if low is None else low, m) if bounded else np.zeros(0, np.float32),
        high=_each("high", 1.0 if high is None else high, m) if bounded else np.zeros(0, np.float32),
    )
    if examples is not None and np.shape(examples)[1:] != (n,):
        raise InputError(f"examples have shape {np.shape(examples)}, but the network needs (n, {n})")
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
        examples=None if examples is None else np.asarray(examples, np.float32),
    )
    return write(Path(out), build(subject, formats, quantize is not None, 0, skip))


def _with(network: Network, params: Params, apply: Callable[[Params, Any], Any]) -> Callable[[np.ndarray], np.ndarray]:
    compiled = jax.jit(apply)

    def act(x: np.ndarray) -> np.ndarray:
        x = np.clip((x - network.mean) * network.scale, -network.clip, network.clip)
        return finish(network, np.asarray(compiled(params, x), np.float32).reshape(len(x), -1))

    return act


def _each(name: str, value: Any, n: int) -> np.ndarray:
    array = np.asarray(value, np.float32)
    if array.shape not in ((), (n,)) or not np.isfinite(array).all():
        raise InputError(f"{name} has shape {array.shape}, but must be one finite number or {n} of them")
    return np.broadcast_to(array, (n,)).copy()


def _names(name: str, given: Sequence[str], n: int, word: str) -> list[str]:
    if given and len(given) != n:
        raise InputError(f"{name} has {len(given)} names, but needs {n}")
    return list(given) or [f"{word} {i}" for i in range(n)]

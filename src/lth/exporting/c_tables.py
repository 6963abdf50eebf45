"""Layers as constant tables in C: the layout of the kernel, its size, and the C text."""

import itertools
import math
from collections.abc import Iterable
from typing import Literal, NamedTuple

import numpy as np

from ..errors import ExportError
from .network import Layer, Network

NARROW = 16
"""Dense layers with fewer outputs are computed output by output, others input by input, which compilers vectorize."""


SIZES = {"float": 4, "int8_t": 1, "uint8_t": 1, "uint16_t": 2, "int32_t": 4}
"""The bytes of the C types in tables."""
MOST_LAYERS = 8
FUNCTION_BYTES = 120
"""The approximate size of the function for one kind of layer on a Cortex-M4."""


class Layout(NamedTuple):
    """The layout of a layer's kernel."""

    kind: Literal["sparse", "dot", "axpy"]
    """sparse: the count of each output, then columns and weights; dot: outputs x inputs; axpy: inputs x outputs."""
    weight: str
    """The C type of a weight: float or int8_t."""
    column: str
    """The C type of a column index, in sparse rows."""
    length: str
    """The C type of the number of weights in a row, in sparse rows."""
    bytes: int
    """The size of its tables, including biases and scales."""
    other: int
    """The size of the alternative, sparse or dense."""

    @property
    def function(self) -> str:
        """The name of the C function for this layout."""
        parts = {"float": "f32", "int8_t": "i8", "uint8_t": "u8", "uint16_t": "u16", "int32_t": "i32"}
        types = [self.weight, *([self.length, self.column] if self.kind == "sparse" else [])]
        return "_".join([{"sparse": "sparse_rows"}.get(self.kind, f"dense_{self.kind}"), *(parts[t] for t in types)])


def layouts(network: Network) -> tuple[Layout, ...]:
    """Choose sparse rows or the whole matrix for each layer, to minimize the size of the program including its functions.

    All combinations are compared for up to MOST_LAYERS layers; in deeper networks, each layer is minimized separately.
    """
    choices = [_choices(layer) for layer in network.layers]
    if len(choices) > MOST_LAYERS:
        return tuple(min(pair, key=lambda one: one.bytes) for pair in choices)

    def size(chosen: tuple[Layout, ...]) -> int:
        return sum(one.bytes for one in chosen) + FUNCTION_BYTES * len({one.function for one in chosen})

    return min(itertools.product(*choices), key=size)


def _choices(layer: Layer) -> list[Layout]:
    inputs, outputs = layer.kernel.shape
    weight = "float" if layer.scales is None else "int8_t"
    most = int(np.count_nonzero(layer.kernel, axis=0).max())
    index, count = counting(inputs - 1), counting(most)
    rest = 4 * outputs * (1 + (layer.scales is not None) + 2 * (layer.norm is not None))
    dense = SIZES[weight] * layer.kernel.size + rest
    sparse = (SIZES[weight] + SIZES[index]) * layer.weights + SIZES[count] * outputs + rest
    found = [Layout("dot" if outputs < NARROW else "axpy", weight, index, count, dense, sparse)]
    if layer.weights:  # C has no empty arrays
        found.append(Layout("sparse", weight, index, count, sparse, dense))
    return found


def counting(largest: int) -> str:
    """Return the smallest C type for whole numbers from 0 to `largest`.

    The widest is signed, because conversions from uint32_t to int warn.
    """
    return "uint8_t" if largest < 2**8 else "uint16_t" if largest < 2**16 else "int32_t"


def table_bytes(network: Network) -> int:
    """Return the bytes of constants in the C program of a network, without its instructions."""
    n = len(network.reads)
    index = SIZES[counting(network.observation_dim - 1)] if gathers(network) else 0
    bounds = 0 if network.squash in ("argmax", "none") else 4 * network.actions * (4 if network.squash == "tanh" else 2)
    return sum(one.bytes for one in layouts(network)) + n * (index + (8 if network.normalizes else 0)) + bounds


def gathers(network: Network) -> bool:
    """Return whether observations are copied before the first layer, because some are unused or they are normalized."""
    return len(network.reads) < network.observation_dim or network.normalizes


def buffer_sizes(network: Network) -> tuple[int, int]:
    """Return the lengths of the two float buffers that layers alternately read and write; 0 if not needed."""
    widths = [len(network.reads) if gathers(network) else 0, *(len(layer.bias) for layer in network.layers)]
    return max(widths[0::2]), max(widths[1::2])


def tables(layer: Layer, layout: Layout, name: str) -> str:
    """Return the C text of a layer's tables, named `<name>_bias`, `<name>_weights`, ..."""
    kernel = layer.kernel
    if layer.scales is not None:
        kernel = np.rint(kernel / layer.scales)
    text = [array("float", f"{name}_bias", layer.bias)]
    if layer.scales is not None:
        text.append(array("float", f"{name}_scales", layer.scales))
    if layer.norm is not None:
        text += [
            array("float", f"{name}_norm_scale", layer.norm[0]),
            array("float", f"{name}_norm_shift", layer.norm[1]),
        ]
    if layout.kind == "sparse":
        units, columns = np.nonzero(layer.kernel.T)
        text += [
            array(layout.length, f"{name}_counts", np.count_nonzero(layer.kernel, axis=0)),
            array(layout.column, f"{name}_columns", columns),
            array(layout.weight, f"{name}_weights", kernel.T[units, columns]),
        ]
    else:
        text.append(array(layout.weight, f"{name}_weights", (kernel.T if layout.kind == "dot" else kernel).ravel()))
    return "".join(text)


def array(kind: str, name: str, values: Iterable[float] | np.ndarray) -> str:
    """Return the C text of a constant array."""
    items = [literal(value) if kind == "float" else str(int(value)) for value in values]
    return f"static const {kind} {name}[{len(items)}] = {{\n{wrapped(items)}\n}};\n"


def literal(value: float) -> str:
    """Return a float32 as a C literal that compilers read back exactly.

    >>> literal(0.1), literal(2), literal(float(np.float32(1e-20)))
    ('0.1f', '2.0f', '1e-20f')

    Raises:
        ExportError: it is not finite; C has no such literal.
    """
    exact = float(np.float32(value))
    if not math.isfinite(exact):
        raise ExportError(
            f"a constant of the C program is {exact}, so nothing was written: weights, biases or bounds are so large that folding "
            "them exceeds float32. Scale the network's inputs or outputs"
        )
    text = next(text for n in range(1, 10) if np.float32(text := f"{exact:.{n}g}") == np.float32(exact))
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"


def wrapped(items: list[str], width: int = 100) -> str:
    """Join items with commas, wrapped to lines of at most `width` characters."""
    lines, line = [], "   "
    for i, item in enumerate(items):
        piece = f" {item}" + ("," if i < len(items) - 1 else "")
        if len(line) + len(piece) > width:
            lines.append(line)
            line = "   "
        line += piece
    return "\n".join([*lines, line])

"""Describe each leaf of a pytree: which layer it belongs to, whether it can be pruned, and how many layers it holds.

Any pytree of arrays works: dicts of arrays, Flax linen parameters, the state of a Flax NNX module, or the arrays of an Equinox
module. A leaf is named by its path, `q1/layer_0/kernel`. Its layer is the path without the weight's own name, `q1/layer_0`;
options such as `exclude` use layer names.
"""

import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InputError
from ..types import Array, Params
from .names import NO_LAYER, by_name, check_layer_names, holds_layer, is_weight, layer_of

Prunable = Callable[[str, Array], bool]
"""(name, leaf) -> whether the leaf may be pruned."""
Axes = int | Sequence[int]
StackAxes = Axes | Mapping[str, Axes]
"""The axes of a leaf that index stacked layers: one axis, several, or a mapping from layer names to these; `()` means none."""

_NO_WEIGHT = re.compile(r"^b\d*$|bias|scale|offset|norm|embed", re.IGNORECASE)
_STACKED = re.compile(r"^(?:Scan|Vmap)(?=[A-Z])")
"""The prefix of Flax linen modules made by `nn.scan` or `nn.vmap`; both stack along axis 0 by default."""


class Layer(NamedTuple):
    """The description of one leaf.

    A leaf that holds `copies` stacked layers is counted layer by layer. Each of its layers is a matrix from `inputs` to
    `outputs`, or a convolution with a window.
    """

    path: str
    """The leaf's name: `q1/layer_0/kernel`."""
    layer: str
    """The layer's name: `q1/layer_0`."""
    shape: tuple[int, ...]
    """The leaf's shape."""
    prunable: bool
    """Whether it may be pruned."""
    why: str
    """The reason why it can or cannot be pruned."""
    stack_axes: tuple[int, ...] = ()
    """The axes that index stacked layers."""
    window_axes: tuple[int, ...] = ()
    """The spatial axes of a convolution kernel."""
    input_axes: tuple[int, ...] = ()
    """The axes of the inputs."""
    output_axes: tuple[int, ...] = ()
    """The axes of the outputs."""
    doubt: str = ""
    """What was assumed about its axes, if the tree does not determine them."""

    @property
    def copies(self) -> int:
        """The number of layers that it holds."""
        return math.prod(self.shape[axis] for axis in self.stack_axes)

    @property
    def inputs(self) -> int:
        """The fan-in: the number of weights that each output reads, including the positions of a convolution window."""
        return math.prod(self.shape[axis] for axis in (*self.window_axes, *self.input_axes))

    @property
    def outputs(self) -> int:
        """The number of outputs of each of its layers."""
        return math.prod(self.shape[axis] for axis in self.output_axes)

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def each(self) -> tuple[int, ...]:
        """The shape of one of its layers for allocations: (window, inputs, outputs)."""
        if not self.output_axes:
            return tuple(n for axis, n in enumerate(self.shape) if axis not in self.stack_axes)
        window = (self.shape[axis] for axis in self.window_axes)
        return (*window, math.prod(self.shape[axis] for axis in self.input_axes), self.outputs)

    @property
    def names(self) -> list[str]:
        """The names of its layers: `body`, or `body[0]`, `body[1]`, ... for a stack."""
        if not self.stack_axes:
            return [self.layer]
        places = np.ndindex(*(self.shape[axis] for axis in self.stack_axes))
        return [f"{self.layer}[{', '.join(map(str, place))}]" for place in places]


def split(leaf: Array, stack_axes: Sequence[int]) -> list[Array]:
    """Return the layers that are stacked in a leaf, in order; a leaf without stack axes is returned as one layer."""
    if not stack_axes:
        return [leaf]
    library: Any = jnp if isinstance(leaf, jax.Array) else np
    front = library.moveaxis(leaf, stack_axes, range(len(stack_axes)))
    return list(front.reshape(-1, *front.shape[len(stack_axes) :]))


def join(layers_of_one: Sequence[Array], stack_axes: Sequence[int], shape: Sequence[int]) -> Array:
    """Undo `split` for a leaf of this shape."""
    if not stack_axes:
        return layers_of_one[0]
    library: Any = jnp if isinstance(layers_of_one[0], jax.Array) else np
    counts = tuple(shape[axis] for axis in stack_axes)
    front = library.stack(layers_of_one).reshape(*counts, *layers_of_one[0].shape)
    return library.moveaxis(front, range(len(stack_axes)), stack_axes)


class Layers(tuple[Layer, ...]):
    """The rows of `layers`, one per leaf in tree order; prints as a table."""

    def __str__(self) -> str:
        heads = ("leaf", "shape", "layers", "inputs", "outputs", "weights", "pruned?")
        rows = [heads]
        for row in self:
            axes = f" (axis {', '.join(map(str, row.stack_axes))})" if row.stack_axes else ""
            sizes = (f"{row.copies}{axes}", f"{row.inputs}", f"{row.outputs}") if row.prunable else ("", "", "")
            said = "; ".join(filter(None, (row.why, row.doubt)))
            rows.append(
                (row.path, f"{row.shape}", *sizes, f"{row.size:,}", f"{'yes' if row.prunable else 'no'}: {said}")
            )
        widths = [max(len(row[i]) for row in rows) for i in range(len(heads) - 1)]
        lines = ["  ".join([*(x.ljust(n) for x, n in zip(row[:-1], widths, strict=True)), row[-1]]) for row in rows]
        can, every = sum(row.size for row in self if row.prunable), sum(row.size for row in self)
        return "\n".join([*lines, f"{can:,} of {every:,} weights can be pruned"])

    __repr__ = __str__


def path_name(path: Sequence[Any]) -> str:
    """Return the name of a leaf, its path: `layer_0/kernel`. The trailing `.value` of Flax NNX variables is omitted."""
    return "/".join(path_keys(path))


def path_keys(path: Sequence[Any]) -> list[str]:
    """Return the parts of a leaf's name: dict keys, indices and attributes."""
    if path and path[-1] == jax.tree_util.GetAttrKey("value"):
        path = path[:-1]
    return [jax.tree_util.keystr((key,), simple=True) for key in path]


def is_matrix(name: str, leaf: Array) -> bool:
    """Return whether a leaf has at least two axes and is not named like a bias, norm or embedding."""
    *layers, own = name.split("/")
    none = _NO_WEIGHT.search(own) or (layers and NO_LAYER.search(layers[-1]))
    return np.ndim(leaf) >= 2 and not none and not jnp.issubdtype(leaf.dtype, jnp.integer)


def named_leaves(tree: Params) -> dict[str, Array]:
    """Return the leaves by name, in tree order.

    Raises:
        InputError: two leaves have the same name, such as the key "a/b" and the key "b" in "a".
    """
    return by_name([(path_name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)])


def layers(
    params: Params,
    exclude: Sequence[str] = (),
    prunable: Prunable | None = None,
    stack_axes: StackAxes | None = None,
) -> Layers:
    """Describe each leaf of a network's parameters as `prune` sees it. Print the result before you prune.

    >>> body = {"kernel": np.ones((3, 8, 8)), "bias": np.ones((3, 8))}
    >>> print(layers({"body": body, "head": {"kernel": np.ones((8, 2))}}, exclude=["head"]))
    leaf         shape      layers      inputs  outputs  weights  pruned?
    body/bias    (3, 8)                                  24       no: a bias
    body/kernel  (3, 8, 8)  3 (axis 0)  8       8        192      yes: named kernel
    head/kernel  (8, 2)                                  16       no: excluded
    192 of 232 weights can be pruned

    Stacked layers are recognized by the leaf's bias, which has the same leading axes; by the sizes stored in Equinox modules;
    or by the names that Flax's `nn.scan` and `nn.vmap` give (`ScanBlock_0`, `VmapCritic_0`: axis 0). Otherwise, a leaf with three
    or more axes is assumed to be a convolution, and the row's `doubt` states this assumption.

    Args:
        params: a pytree of arrays.
        exclude: layers that stay dense; each entry is any part of a layer's path.
        prunable: (name, leaf) -> bool, whether a leaf may be pruned. Default: leaves named `kernel`, `weight...` or `w`; if there
            are none, every matrix.
        stack_axes: the axes that index stacked layers, like `in_axes` of `jax.vmap`: 0 or (0, 1) for all prunable leaves, or
            by layer name, {"body": 0}. `()` means no stacked layers.

    Returns:
        One row for each leaf, in tree order. It prints as a table.

    Raises:
        InputError: there is nothing to prune, a leaf is not a numeric array, a layer name is unknown, or an axis does not exist.
    """
    leaves = named_leaves(params)
    for name, leaf in leaves.items():
        dtype = getattr(leaf, "dtype", None)
        if dtype is None or jnp.issubdtype(dtype, jax.dtypes.extended) or not _numeric(dtype):
            raise InputError(
                f"the leaf {name!r} is not a numeric array but {type(leaf).__name__}. For an Equinox module pass "
                "eqx.filter(model, eqx.is_inexact_array), for a Flax NNX module nnx.state(model, nnx.Param)."
            )
    owners = [_owner(params, path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    shapes = {name: tuple(np.shape(leaf)) for name, leaf in leaves.items()}
    found = _prunable(leaves, owners, prunable)
    names = [layer_of(name) for name in found]
    exclude = (exclude,) if isinstance(exclude, str) else exclude
    if not isinstance(exclude, Iterable):
        raise InputError(f"exclude is {exclude!r}, but must be a list of layer names; () excludes none")
    check_layer_names(exclude, names, "pruning.exclude", "here")
    if isinstance(stack_axes, Mapping):
        check_layer_names(stack_axes, names, "stack_axes", "here")
    rows = []
    for (name, leaf), owner in zip(leaves.items(), owners, strict=True):
        layer = layer_of(name)
        if name not in found:
            why = "rejected by `prunable`" if prunable else _why_not(name, leaf, owner)
            rows.append(Layer(name, layer, shapes[name], False, why))
        else:
            out = any(holds_layer(layer, e) for e in exclude)
            axes = _axes(name, shapes, owner, _given(stack_axes, layer, shapes[name], prunable is not None))
            rows.append(Layer(name, layer, shapes[name], not out, "excluded" if out else found[name], *axes))
    return Layers(rows)


def _numeric(dtype: Any) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.number) or jnp.issubdtype(dtype, jnp.bool_))


def _prunable(leaves: Mapping[str, Array], owners: Sequence[Any], prunable: Prunable | None) -> dict[str, str]:
    """Return the prunable leaves by name, each with the reason."""

    def library_says_no(owner: Any) -> bool:
        return owner is not None and NO_LAYER.search(type(owner).__name__) is not None

    if prunable:
        if found := [name for name, leaf in leaves.items() if prunable(name, leaf)]:
            return dict.fromkeys(found, "accepted by `prunable`")
    else:
        open_ = {n: leaf for (n, leaf), owner in zip(leaves.items(), owners, strict=True) if not library_says_no(owner)}
        if named := [name for name, leaf in open_.items() if is_weight(name, leaf)]:
            return {name: f"named {name.rpartition('/')[2]}" for name in named}
        if found := [name for name, leaf in open_.items() if is_matrix(name, leaf)]:
            return dict.fromkeys(found, "a matrix, and no leaf is named like a weight")
    wanted = "that `prunable` accepts" if prunable else "named 'kernel', 'weight' or 'w', and no other matrix"
    raise InputError(f"nothing to prune: the parameters have no leaf {wanted}. Their leaves are {list(leaves)[:8]}")


UNNAMED = "a matrix that is not named like a weight"


def _why_not(name: str, leaf: Array, owner: Any) -> str:
    *above, own = name.split("/")
    for word, kind in (("norm", "a norm's"), ("emb", "an embedding's")):
        if word in own.lower() or any(NO_LAYER.search(x) and word in x.lower() for x in above[-1:]):
            return kind
        if owner is not None and word in type(owner).__name__.lower():
            return kind
    if re.search(r"^b\d*$|bias", own, re.IGNORECASE):
        return "a bias"
    if np.ndim(leaf) < 2:
        return "a vector" if np.ndim(leaf) else "a number"
    return UNNAMED if is_matrix(name, leaf) and min(np.shape(leaf)) > 1 else f"named {own}"


def _owner(tree: Any, path: Sequence[Any]) -> Any:
    """Return the module that holds a leaf, such as an Equinox layer; None if a plain container holds it."""
    at = tree
    for key in path[:-1]:
        if isinstance(key, jax.tree_util.GetAttrKey):
            at = getattr(at, key.name, None)
        elif isinstance(key, jax.tree_util.SequenceKey) and isinstance(at, list | tuple):
            at = at[key.idx]
        elif isinstance(key, jax.tree_util.DictKey) and isinstance(at, Mapping):
            at = at.get(key.key)
        else:
            return None
    is_module = path and isinstance(path[-1], jax.tree_util.GetAttrKey) and path[-1].name != "value"
    return at if is_module else None


def _given(stack_axes: StackAxes | None, layer: str, shape: tuple[int, ...], own: bool) -> tuple[int, ...] | None:
    """Return the stack axes that the user gave for a layer, or None."""
    if isinstance(stack_axes, Mapping):
        fitting = [name for name in stack_axes if holds_layer(layer, name)]
        stack_axes = stack_axes[max(fitting, key=len)] if fitting else None
    if stack_axes is None:
        return None
    given = (stack_axes,) if isinstance(stack_axes, int | np.integer) else tuple(stack_axes)
    ndim = len(shape)
    if not all(isinstance(axis, int | np.integer) and -ndim <= axis < ndim for axis in given):
        raise InputError(f"stack_axes={stack_axes!r} is out of range for {layer!r}, which has shape {shape}")
    axes = tuple(sorted({int(axis) % ndim for axis in given}))
    if axes and ndim - len(axes) < 2 and not own:
        raise InputError(
            f"stack_axes={stack_axes!r} leaves fewer than two axes of {layer!r}, which has shape {shape}. If only some layers are "
            "stacked, name them: stack_axes={'body': 0}"
        )
    return axes


def _axes(
    name: str, shapes: Mapping[str, tuple[int, ...]], owner: Any, given: tuple[int, ...] | None
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...], str]:
    """Return a leaf's stack, window, input and output axes, and what was assumed to find them."""
    shape, own = shapes[name], name.rpartition("/")[2]
    ndim = len(shape)
    if ndim < 2:
        return (given or ()), (), (), (), ""
    natural = _natural_axes(owner, own)
    told = _from_bias(name, shapes, output_first=natural is not None)
    attention = _attention(name, shapes)
    stacks, doubt = sum(bool(_STACKED.match(part)) for part in name.split("/")), ""
    outs = 1
    if natural is not None:
        leading = max(ndim - natural, 0)
    elif told is not None:
        leading, outs, certain = told
        if given is None and not (certain or stacks or attention):
            doubt = f"assumed to be {math.prod(shape[:leading])} stacked layers, to match its bias; if not, pass stack_axes=()"
    elif stacks:
        leading = min(stacks, ndim - 2)
    elif attention:
        leading = max(ndim - 3, 0)
    else:
        leading = 0
        if ndim > 2 and given is None and "conv" not in name.lower():
            doubt = (
                "assumed to be one convolution; if its first axis indexes stacked layers, pass stack_axes=0, else ()"
            )
    stack = tuple(range(leading)) if given is None else given
    rest = [axis for axis in range(ndim) if axis not in stack]
    if len(rest) < 2:
        return stack, (), (), (), doubt
    if natural is not None or (own.startswith("weight") and len(rest) == 2 and _torch_order(name, shapes, rest)):
        return stack, tuple(rest[2:]), (rest[1],), (rest[0],), doubt  # (outputs, inputs, window)
    if attention == "in" or outs > 1:
        outs = max(outs, len(rest) - 1 if attention == "in" else outs)
        return stack, (), tuple(rest[:-outs]), tuple(rest[-outs:]), doubt
    if attention == "out":
        return stack, (), tuple(rest[:-1]), (rest[-1],), doubt
    return stack, tuple(rest[:-2]), (rest[-2],), (rest[-1],), doubt


def _natural_axes(owner: Any, own: str) -> int | None:
    """Return the number of axes of one layer of an Equinox module, in the order (outputs, inputs, window); None if unknown."""
    if owner is None or not own.startswith("weight"):
        return None
    if isinstance(window := getattr(owner, "kernel_size", None), tuple):
        return 2 + len(window)
    sizes = (("in_features", "out_features"), ("input_size", "hidden_size"))
    return 2 if any(all(hasattr(owner, size) for size in pair) for pair in sizes) else None


def _bias(name: str, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...] | None:
    """Return the shape of the bias that belongs to a weight leaf, if there is one."""
    above, _, own = name.rpartition("/")
    beside = {n.rpartition("/")[2]: shape for n, shape in shapes.items() if n.rpartition("/")[0] == above and n != name}
    for bias in ("bias", "b", re.sub(r"^(?:weight|kernel|w)", "b", own, flags=re.IGNORECASE)):
        if bias in beside:
            return beside[bias]
    vectors = [shape for other, shape in beside.items() if other.isdigit() and len(shape) < len(shapes[name])]
    return vectors[0] if own.isdigit() and len(vectors) == 1 else None


def _from_bias(name: str, shapes: Mapping[str, tuple[int, ...]], output_first: bool) -> tuple[int, int, bool] | None:
    """Infer the numbers of leading stack axes and trailing output axes from the bias's shape, and whether they are certain."""
    bias, shape = _bias(name, shapes), shapes[name]
    if bias is None or output_first or not 0 < len(bias) < len(shape):
        return None
    fitting = []
    for stack in range(len(bias)):
        outs = len(bias) - stack
        if bias == shape[:stack] + shape[len(shape) - outs :] and stack + outs < len(shape):
            fitting.append((stack, outs))
    if not fitting and len(shape) - len(bias) == 1 and bias == shape[:-1]:
        return len(bias) - 1, 1, True  # (outputs, inputs), as in PyTorch
    if len(fitting) > 1 and _attention(name, shapes) == "in":
        return *fitting[0], True
    return (*fitting[-1], len(fitting) == 1) if fitting else None


def _torch_order(name: str, shapes: Mapping[str, tuple[int, ...]], rest: Sequence[int]) -> bool:
    """Return whether a `weight` leaf is (outputs, inputs), as in PyTorch; true unless the shape of its bias contradicts it."""
    bias, shape = _bias(name, shapes), shapes[name]
    return bias is None or not bias or bias[-1] != shape[rest[1]] or bias[-1] == shape[rest[0]]


def _attention(name: str, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Return "in" for a Flax attention leaf that projects into the heads, "out" for one that projects out of them, else ""."""
    layer = layer_of(name)
    above, _, own = layer.rpartition("/")
    prefix = f"{above}/" if above else ""
    there = {n[len(prefix) :].split("/")[0] for n in shapes if n.startswith(prefix)}
    if layer == name or len(shapes[name]) < 3 or not {"query", "key", "value"} <= there:
        return ""
    return {"query": "in", "key": "in", "value": "in", "out": "out"}.get(own, "")


def warn_of_doubts(rows: Layers, stacklevel: int = 3) -> None:
    """Warn about leaves whose axes are assumed, and about matrices that stay dense only because of their names."""
    if doubted := [f"{row.path!r} {row.shape} is {row.doubt}" for row in rows if row.prunable and row.doubt]:
        warnings.warn(
            f"ambiguous axes: {'; '.join(doubted[:4])} (or by layer: stack_axes={{layer: 0}}). Each layer of a stack is counted "
            "separately. `lth.layers` lists how every leaf is interpreted.",
            stacklevel=stacklevel,
        )
    if unnamed := [f"{row.path!r} {row.shape}" for row in rows if row.why == UNNAMED]:
        warnings.warn(
            f"left dense: {', '.join(unnamed[:4])}, because other leaves are named like weights and these are not. "
            "Pass prunable=lth.pruning.layers.is_matrix to prune every matrix, or `exclude` or `prunable` to choose.",
            stacklevel=stacklevel,
        )


def layer_names(params: Params, prunable: Prunable | None = None) -> list[str]:
    """Return the names of the layers that can be pruned."""
    return [row.layer for row in layers(params, (), prunable) if row.prunable]


def pieces(rows: Sequence[Layer]) -> Iterator[tuple[Layer, str]]:
    """Iterate over the prunable layers, counting each layer of a stack separately: (row, layer name)."""
    return ((row, name) for row in rows if row.prunable for name in row.names)

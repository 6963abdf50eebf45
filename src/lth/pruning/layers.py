"""What each leaf of a pytree is: which layer it belongs to, whether it can be pruned, and how many layers it holds.

Any pytree of arrays will do: dicts of arrays, Flax linen's parameters, the state of a Flax NNX module, an Equinox module
without what is no array. A leaf is named by its path, `q1/layer_0/kernel`; its layer is what comes before the weight's own
name, `q1/layer_0`, so that people can say which layers to leave out.
"""

import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InputError
from ..types import Array, Params
from .names import check_layer_names, holds_layer

Prunable = Callable[[str, Array], bool]
"""Says of a leaf, by its name and its value, whether it may be pruned."""
Axes = int | Sequence[int]
StackAxes = Axes | Mapping[str, Axes]
"""Which axes of a leaf count stacked layers: one axis, several, or either by layers' names; `()` is none."""

WEIGHTS = ("kernel", "weight", "w")
"""What Flax, Equinox and PyTorch, and Haiku call the matrix or convolution kernel of a layer."""
_NO_WEIGHT = re.compile(r"^b\d*$|bias|scale|offset|norm|embed", re.IGNORECASE)
_NO_LAYER = re.compile(r"norm|embed|(?:^|_)emb(?:$|_|\d)", re.IGNORECASE)
_STACKED = re.compile(r"^(?:Scan|Vmap)(?=[A-Z])")
"""How Flax linen begins the name of a module that `nn.scan` or `nn.vmap` made; both stack along axis 0 by default."""


class Layer(NamedTuple):
    """What one leaf is.

    A leaf of `copies` stacked layers is counted layer by layer. Each layer of it is a matrix from `inputs` to `outputs`, or a
    convolution with a `window`.
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
    """Why it can be pruned, or not."""
    stack_axes: tuple[int, ...] = ()
    """The axes that count stacked layers."""
    window_axes: tuple[int, ...] = ()
    """The axes of a convolution's window."""
    input_axes: tuple[int, ...] = ()
    """The axes of the inputs."""
    output_axes: tuple[int, ...] = ()
    """The axes of the outputs."""
    doubt: str = ""
    """What was assumed of its axes, where the tree does not tell."""

    @property
    def copies(self) -> int:
        """How many layers it holds."""
        return math.prod(self.shape[axis] for axis in self.stack_axes)

    @property
    def inputs(self) -> int:
        """How many weights each output reads: the fan-in, a window's positions included."""
        return math.prod(self.shape[axis] for axis in (*self.window_axes, *self.input_axes))

    @property
    def outputs(self) -> int:
        """How many outputs each of its layers has."""
        return math.prod(self.shape[axis] for axis in self.output_axes)

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def each(self) -> tuple[int, ...]:
        """The shape of one of its layers as allocations count it: the window, the inputs, the outputs."""
        if not self.output_axes:
            return tuple(n for axis, n in enumerate(self.shape) if axis not in self.stack_axes)
        window = (self.shape[axis] for axis in self.window_axes)
        return (*window, math.prod(self.shape[axis] for axis in self.input_axes), self.outputs)

    @property
    def names(self) -> list[str]:
        """The names of its layers: `body`, or `body[0]`, `body[1]`, ... of a stack."""
        if not self.stack_axes:
            return [self.layer]
        places = np.ndindex(*(self.shape[axis] for axis in self.stack_axes))
        return [f"{self.layer}[{', '.join(map(str, place))}]" for place in places]


def split(leaf: Array, stack_axes: Sequence[int]) -> list[Array]:
    """Return the layers that are stacked in a leaf, in order; the leaf itself where it is one layer."""
    if not stack_axes:
        return [leaf]
    library: Any = jnp if isinstance(leaf, jax.Array) else np
    front = library.moveaxis(leaf, stack_axes, range(len(stack_axes)))
    return list(front.reshape(-1, *front.shape[len(stack_axes) :]))


def join(layers_of_one: Sequence[Array], stack_axes: Sequence[int], shape: Sequence[int]) -> Array:
    """Undo `split` of a leaf of this shape."""
    if not stack_axes:
        return layers_of_one[0]
    library: Any = jnp if isinstance(layers_of_one[0], jax.Array) else np
    counts = tuple(shape[axis] for axis in stack_axes)
    front = library.stack(layers_of_one).reshape(*counts, *layers_of_one[0].shape)
    return library.moveaxis(front, range(len(stack_axes)), stack_axes)


class Layers(tuple[Layer, ...]):
    """The rows of `layers`, one a leaf in tree order; prints as a table."""

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
    """Name a leaf by its path: `layer_0/kernel`. The `.value` in which Flax NNX keeps each array is left out."""
    return "/".join(path_keys(path))


def path_keys(path: Sequence[Any]) -> list[str]:
    """Return the parts of a leaf's name: dicts' keys, indexes, attributes."""
    if path and path[-1] == jax.tree_util.GetAttrKey("value"):
        path = path[:-1]
    return [jax.tree_util.keystr((key,), simple=True) for key in path]


def layer_of(name: str) -> str:
    """Name the layer of a leaf: its name without a last part that says only that these are the weights.

    >>> layer_of("q1/layer_0/kernel"), layer_of("cell/weight_ih"), layer_of("w")
    ('q1/layer_0', 'cell/weight_ih', 'w')
    """
    layer, _, own = name.rpartition("/")
    return layer if layer and own in WEIGHTS else name


def is_weight(name: str, leaf: Array) -> bool:
    """Say whether a leaf is named as weights are: `kernel`; or `weight...` or `w`, if it has two axes or more.

    Biases, norms and embeddings are none: an Equinox norm's or embedding's `weight` is told by its layer's name, that is
    by `norm`, `embed` or `emb` in the part before.
    """
    *layers, own = name.split("/")
    if own == "kernel":
        return True
    named = own.startswith("weight") or own == "w"
    return named and np.ndim(leaf) >= 2 and not (layers and _NO_LAYER.search(layers[-1]))


def is_matrix(name: str, leaf: Array) -> bool:
    """Say whether a leaf has two axes or more and a name that is no bias's, norm's or embedding's."""
    *layers, own = name.split("/")
    none = _NO_WEIGHT.search(own) or (layers and _NO_LAYER.search(layers[-1]))
    return np.ndim(leaf) >= 2 and not none and not jnp.issubdtype(leaf.dtype, jnp.integer)


def named_leaves(tree: Params) -> dict[str, Array]:
    """Return the leaves by name, in tree order.

    Raises:
        InputError: two leaves have one name, as "a/b" in one dict and "b" in its "a".
    """
    found = jax.tree_util.tree_leaves_with_path(tree)
    leaves = {path_name(path): leaf for path, leaf in found}
    if len(leaves) != len(found):
        names = [path_name(path) for path, _ in found]
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"two leaves are called {twice!r}; rename one, because leaves are told apart by their paths")
    return leaves


def layers(
    params: Params,
    exclude: Sequence[str] = (),
    prunable: Prunable | None = None,
    stack_axes: StackAxes | None = None,
) -> Layers:
    """Return what each leaf of a network's parameters is taken for, one row a leaf. Print it before you prune.

    >>> body = {"kernel": np.ones((3, 8, 8)), "bias": np.ones((3, 8))}
    >>> print(layers({"body": body, "head": {"kernel": np.ones((8, 2))}}, exclude=["head"]))
    leaf         shape      layers      inputs  outputs  weights  pruned?
    body/bias    (3, 8)                                  24       no: a bias
    body/kernel  (3, 8, 8)  3 (axis 0)  8       8        192      yes: named kernel
    head/kernel  (8, 2)                                  16       no: excluded
    192 of 232 weights can be pruned

    That a leaf holds several layers is read from its bias, which has the same axes in front; from Equinox's modules, which
    know their sizes; or from the names that Flax's `nn.scan` and `nn.vmap` give (`ScanBlock_0`, `VmapCritic_0`: axis 0).
    Where nothing tells, a leaf of three axes or more is taken for a convolution, and the row's `doubt` says so.

    Args:
        params: a pytree of arrays.
        exclude: layers that stay dense, by any part of their path.
        prunable: (name, leaf) -> bool, what may be pruned. By default what is named as weights are: `kernel`, `weight...`
            or `w`; where nothing is named so, every matrix.
        stack_axes: which axes count stacked layers, as vmap's `in_axes`: 0, or (0, 1), of all that can be pruned; or by
            layers' names, {"body": 0}. `()` says that there are none.

    Returns:
        One row a leaf, in tree order; prints as a table.

    Raises:
        InputError: there is nothing to prune, a leaf is no array of numbers, a name is no layer's, or a leaf has no such axis.
    """
    leaves = named_leaves(params)
    for name, leaf in leaves.items():
        dtype = getattr(leaf, "dtype", None)
        if dtype is None or jnp.issubdtype(dtype, jax.dtypes.extended) or not _numeric(dtype):
            raise InputError(
                f"the leaf {name!r} is no array of numbers but {type(leaf).__name__}. Of an Equinox module take "
                "eqx.filter(model, eqx.is_inexact_array), of a Flax NNX module nnx.state(model, nnx.Param)."
            )
    owners = [_owner(params, path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    shapes = {name: tuple(np.shape(leaf)) for name, leaf in leaves.items()}
    found = _prunable(leaves, owners, prunable)
    names = [layer_of(name) for name in found]
    exclude = (exclude,) if isinstance(exclude, str) else exclude
    check_layer_names(exclude, names, "pruning.exclude", "here")
    if isinstance(stack_axes, Mapping):
        check_layer_names(stack_axes, names, "stack_axes", "here")
    rows = []
    for (name, leaf), owner in zip(leaves.items(), owners, strict=True):
        layer = layer_of(name)
        if name not in found:
            why = "`prunable` does not admit it" if prunable else _why_not(name, leaf, owner)
            rows.append(Layer(name, layer, shapes[name], False, why))
        else:
            out = any(holds_layer(layer, e) for e in exclude)
            axes = _axes(name, shapes, owner, _given(stack_axes, layer, shapes[name], prunable is not None))
            rows.append(Layer(name, layer, shapes[name], not out, "excluded" if out else found[name], *axes))
    return Layers(rows)


def _numeric(dtype: Any) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.number) or jnp.issubdtype(dtype, jnp.bool_))


def _prunable(leaves: Mapping[str, Array], owners: Sequence[Any], prunable: Prunable | None) -> dict[str, str]:
    """Return which leaves may be pruned, and why."""

    def library_says_no(owner: Any) -> bool:
        return owner is not None and _NO_LAYER.search(type(owner).__name__) is not None

    if prunable:
        if found := [name for name, leaf in leaves.items() if prunable(name, leaf)]:
            return dict.fromkeys(found, "`prunable` says so")
    else:
        open_ = {n: leaf for (n, leaf), owner in zip(leaves.items(), owners, strict=True) if not library_says_no(owner)}
        if named := [name for name, leaf in open_.items() if is_weight(name, leaf)]:
            return {name: f"named {name.rpartition('/')[2]}" for name in named}
        if found := [name for name, leaf in open_.items() if is_matrix(name, leaf)]:
            return dict.fromkeys(found, "a matrix, and no leaf is named as weights are")
    wanted = "that `prunable` admits" if prunable else "named 'kernel', 'weight' or 'w', nor any other matrix"
    raise InputError(
        f"there is nothing to prune: the parameters have no leaf {wanted}. Their leaves are {list(leaves)[:8]}"
    )


UNNAMED = "a matrix whose name is no weight's"


def _why_not(name: str, leaf: Array, owner: Any) -> str:
    *above, own = name.split("/")
    for word, kind in (("norm", "a norm's"), ("emb", "an embedding's")):
        if word in own.lower() or any(_NO_LAYER.search(x) and word in x.lower() for x in above[-1:]):
            return kind
        if owner is not None and word in type(owner).__name__.lower():
            return kind
    if re.search(r"^b\d*$|bias", own, re.IGNORECASE):
        return "a bias"
    if np.ndim(leaf) < 2:
        return "a vector" if np.ndim(leaf) else "a number"
    return UNNAMED if is_matrix(name, leaf) and min(np.shape(leaf)) > 1 else f"named {own}"


def _owner(tree: Any, path: Sequence[Any]) -> Any:
    """Return the object that holds a leaf, if it is one of a library's modules (an Equinox layer), else None."""
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
    """Return the axes that the user gave for a layer; None if none were."""
    if isinstance(stack_axes, Mapping):
        fitting = [name for name in stack_axes if holds_layer(layer, name)]
        stack_axes = stack_axes[max(fitting, key=len)] if fitting else None
    if stack_axes is None:
        return None
    given = (stack_axes,) if isinstance(stack_axes, int | np.integer) else tuple(stack_axes)
    ndim = len(shape)
    if not all(isinstance(axis, int | np.integer) and -ndim <= axis < ndim for axis in given):
        raise InputError(f"stack_axes is {stack_axes!r}, and {layer!r} of shape {shape} has no such axis")
    axes = tuple(sorted({int(axis) % ndim for axis in given}))
    if axes and ndim - len(axes) < 2 and not own:
        raise InputError(
            f"stack_axes is {stack_axes!r}, which leaves no matrix of {layer!r}, whose shape is {shape}. If only some layers are "
            "stacked, name them: stack_axes={'body': 0}"
        )
    return axes


def _axes(
    name: str, shapes: Mapping[str, tuple[int, ...]], owner: Any, given: tuple[int, ...] | None
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...], str]:
    """Say which axes of a leaf count stacked layers, which are a window's, the inputs and the outputs; and what is assumed."""
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
            doubt = f"taken for {math.prod(shape[:leading])} stacked layers, as its bias's shape allows; if not, say stack_axes=()"
    elif stacks:
        leading = min(stacks, ndim - 2)
    elif attention:
        leading = max(ndim - 3, 0)
    else:
        leading = 0
        if ndim > 2 and given is None and "conv" not in name.lower():
            doubt = "taken for one convolution; if its first axis counts stacked layers, say stack_axes=0, else ()"
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
    """Return how many axes one layer of an Equinox module has, where the module tells; they are (outputs, inputs, window)."""
    if owner is None or not own.startswith("weight"):
        return None
    if isinstance(window := getattr(owner, "kernel_size", None), tuple):
        return 2 + len(window)
    sizes = (("in_features", "out_features"), ("input_size", "hidden_size"))
    return 2 if any(all(hasattr(owner, size) for size in pair) for pair in sizes) else None


def _bias(name: str, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...] | None:
    """Return the shape of the bias beside a leaf of weights, if there is one."""
    above, _, own = name.rpartition("/")
    beside = {n.rpartition("/")[2]: shape for n, shape in shapes.items() if n.rpartition("/")[0] == above and n != name}
    for bias in ("bias", "b", re.sub(r"^(?:weight|kernel|w)", "b", own, flags=re.IGNORECASE)):
        if bias in beside:
            return beside[bias]
    vectors = [shape for other, shape in beside.items() if other.isdigit() and len(shape) < len(shapes[name])]
    return vectors[0] if own.isdigit() and len(vectors) == 1 else None


def _from_bias(name: str, shapes: Mapping[str, tuple[int, ...]], output_first: bool) -> tuple[int, int, bool] | None:
    """Read from the bias's shape how many axes in front are a stack, how many at the end are outputs, and if that is certain."""
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
    """Say whether a leaf called `weight` is (outputs, inputs), as PyTorch keeps it: unless its bias says otherwise."""
    bias, shape = _bias(name, shapes), shapes[name]
    return bias is None or not bias or bias[-1] != shape[rest[1]] or bias[-1] == shape[rest[0]]


def _attention(name: str, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Say of a leaf in a Flax attention layer whether it leads into the heads ("in") or out of them ("out")."""
    layer = layer_of(name)
    above, _, own = layer.rpartition("/")
    prefix = f"{above}/" if above else ""
    there = {n[len(prefix) :].split("/")[0] for n in shapes if n.startswith(prefix)}
    if layer == name or len(shapes[name]) < 3 or not {"query", "key", "value"} <= there:
        return ""
    return {"query": "in", "key": "in", "value": "in", "out": "out"}.get(own, "")


def warn_of_doubts(rows: Layers, stacklevel: int = 3) -> None:
    """Warn of leaves whose axes are assumed, and of matrices that stay dense by their names alone."""
    if doubted := [f"{row.path!r} {row.shape} is {row.doubt}" for row in rows if row.prunable and row.doubt]:
        warnings.warn(
            f"what is assumed of their axes: {'; '.join(doubted[:4])} (or by layer: stack_axes={{layer: 0}}). Each layer of a "
            "stack is counted by itself. `lth.layers` shows what every leaf is taken for.",
            stacklevel=stacklevel,
        )
    if unnamed := [f"{row.path!r} {row.shape}" for row in rows if row.why == UNNAMED]:
        warnings.warn(
            f"left dense: {', '.join(unnamed[:4])}, whose names are not those of weights, as others' are. "
            "prunable=lth.pruning.layers.is_matrix prunes every matrix; exclude=... or prunable=... says what else you mean.",
            stacklevel=stacklevel,
        )


def layer_names(params: Params, prunable: Prunable | None = None) -> list[str]:
    """Return the names of the layers that can be pruned."""
    return [row.layer for row in layers(params, (), prunable) if row.prunable]


def pieces(rows: Sequence[Layer]) -> Iterator[tuple[Layer, str]]:
    """Go through the layers that can be pruned, those of a stack one by one: the row and the layer's name."""
    return ((row, name) for row in rows if row.prunable for name in row.names)

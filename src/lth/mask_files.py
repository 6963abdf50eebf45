"""Save and load masks of any network as safetensors, one byte per weight, and read .pkl masks without unpickling."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .errors import InputError
from .files import dump_tensors, load_pickle, load_tensors, write_whole
from .pruning.layers import named_leaves, path_keys
from .pruning.masks import check_same_leaves
from .pruning.names import check_mask_values
from .types import Mask, Params

_FORMAT = "lth-mask-1"


def save_mask(path: str | Path, mask: Mask) -> Path:
    """Write the mask of any network as a safetensors file, which `load_mask` reads. The file is written whole or not at all.

    >>> import tempfile
    >>> path = save_mask(tempfile.mkdtemp() + "/mask.safetensors", {"w": jnp.array([[1.0, 0.0]])})
    >>> load_mask(path)["w"].tolist()
    [[1.0, 0.0]]

    Args:
        path: the file, usually `.safetensors`. Its folders are made.
        mask: a pytree of 0 (pruned) and 1 (kept), as `prune` returns it.

    Returns:
        The path.

    Raises:
        InputError: the mask has other values than 0 and 1 (naming leaf and position), is empty, or has leaves that a file
            cannot name; or the file cannot be written.
    """
    path = Path(path)
    check_mask_values(named_leaves(mask), "the mask")
    arrays = {name: np.asarray(leaf) for name, leaf in named_leaves(mask).items()}
    keys = [path_keys(path_of) for path_of, _ in jax.tree_util.tree_leaves_with_path(mask)]
    about = {name: {"dtype": str(leaf.dtype), "keys": k} for (name, leaf), k in zip(arrays.items(), keys, strict=True)}
    if not arrays:
        raise InputError("the mask is empty, so there is nothing to save")
    for name in arrays:
        try:
            _leaf(name, about[name])
            name.encode()
        except ValueError as error:
            raise InputError(f"the mask cannot be saved: {error}") from None
        if name == "__metadata__":
            raise InputError(
                f"the mask cannot be saved: safetensors has its own use for the name {name!r}; rename this leaf"
            )
    bytes_of = {name: (leaf != 0).astype(np.uint8) for name, leaf in arrays.items()}
    write_whole(path, dump_tensors(bytes_of, {"format": _FORMAT, "leaves": about}), checksum=False)
    return path


def load_mask(path: str | Path, like: Params | None = None) -> Mask:
    """Read a mask: a file of `save_mask`, or a mask.pkl of lth or of any program that pickled nested dicts of NumPy arrays.

    No file can run code: a pickle is read without unpickling it.

    >>> mask = lth.load_mask("mask.safetensors", like=params)  # doctest: +SKIP

    Args:
        path: the file.
        like: the parameters that the mask is for. The mask comes back as such a tree (an Equinox module, a Flax NNX state, a
            tuple, ...), checked leaf by leaf; without it, as nested dicts.

    Returns:
        The mask as JAX arrays, 1 kept and 0 pruned, in the dtypes it was saved with; in those of `like` where that is given.

    Raises:
        InputError: the file is missing, damaged, hostile or not a mask; or it does not fit `like` (naming the leaf and both
            shapes).
    """
    path = Path(path)
    tree = _nested(path) if _begins_as_safetensors(path) else load_pickle(path, "the mask")
    check_mask_values(named_leaves(tree), f"the mask {path}")
    if like is None:
        return jax.device_put(tree)
    check_same_leaves(tree, like, f"the mask {path}")
    found, wanted = named_leaves(tree), named_leaves(like)
    leaves = [np.asarray(found[name]).astype(jnp.result_type(leaf)) for name, leaf in wanted.items()]
    return jax.device_put(jax.tree.unflatten(jax.tree.structure(like), leaves))


def _begins_as_safetensors(path: Path) -> bool:
    """Check the first bytes: safetensors has the length of a JSON header, then the header; a pickle has 0x80 and its version."""
    try:
        if not path.is_file():
            raise InputError(f"there is no mask file at '{path}'")
        with path.open("rb") as file:
            return file.read(9)[8:] == b"{"
    except OSError as error:
        raise InputError(f"the mask {path} cannot be read: {error.strerror or error}") from error


_DEEPEST = 100
"""The maximum depth of a tree; JAX fails on depths of a few thousand."""


def _leaf(name: str, about: dict[str, Any]) -> tuple[list[str], np.dtype]:
    """Return a leaf's keys (none if the mask is a single array) and its dtype.

    Raises:
        ValueError: the file does not describe them.
    """
    keys, dtype = about["keys"], about["dtype"]
    if (
        not isinstance(keys, list)
        or not bool(name) <= len(keys) <= _DEEPEST
        or not all(isinstance(key, str) for key in keys)
    ):
        raise ValueError(f"its leaf {name!r} has no list of up to {_DEEPEST} keys")
    kind = jnp.dtype(dtype) if isinstance(dtype, str) else None
    if kind is None or not (jnp.issubdtype(kind, jnp.number) or kind.kind == "b"):
        raise ValueError(f"the dtype of its leaf {name!r} is not numeric")
    return keys, kind


def _nested(path: Path) -> Any:
    arrays, metadata = load_tensors(path, "the mask", needs_checksum=False)
    try:
        if metadata["format"] != _FORMAT:
            raise ValueError(f"its format is {metadata['format']!r}, but this version of lth reads {_FORMAT!r}")
        tree: dict[str, Any] = {}
        for name, array in arrays.items():
            keys, dtype = _leaf(name, metadata["leaves"][name])
            if not keys and len(arrays) == 1:
                return array.astype(dtype)
            *above, own = keys
            node = tree
            for key in above:
                node = node.setdefault(key, {})
                if not isinstance(node, dict):
                    raise ValueError(f"its leaf {name!r} is inside another leaf")
            if own in node:
                raise ValueError(f"its leaf {name!r} is duplicated")
            node[own] = array.astype(dtype)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"'{path}' is not a mask file of lth.save_mask: {error}") from None
    if not tree:
        raise InputError(f"the mask {path} is empty")
    return tree

"""How people name layers: by any part of their path. Imports no JAX."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import InputError, nearest


def holds_layer(layer: str, name: str) -> bool:
    """Return whether `name` is a part of a layer's path, or several joined by slashes."""
    return f"/{name.strip('/')}/" in f"/{layer}/"


def check_layer_names(names: Sequence[str] | Mapping[str, Any], layers: Sequence[str], what: str, where: str) -> None:
    """Raise InputError unless each name is a layer's: any part of its path, or several joined by slashes."""
    for name in names:
        if not any(holds_layer(layer, name) for layer in layers):
            known = sorted({part for layer in layers for part in (layer, *layer.split("/"))})
            raise InputError(f"{what} names {name!r}, which is no layer {where}; layers: {known}{nearest(name, known)}")

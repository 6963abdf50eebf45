"""Match layer names: any part of a layer's path names it. Does not import JAX."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import InputError, nearest


def holds_layer(layer: str, name: str) -> bool:
    """Return whether `name` is one or more consecutive parts of a layer's path, joined by slashes."""
    return f"/{name.strip('/')}/" in f"/{layer}/"


def check_layer_names(names: Sequence[str] | Mapping[str, Any], layers: Sequence[str], what: str, where: str) -> None:
    """Raise InputError unless each name is one or more consecutive parts of some layer's path."""
    for name in names:
        if not any(holds_layer(layer, name) for layer in layers):
            known = sorted({part for layer in layers for part in (layer, *layer.split("/"))})
            raise InputError(f"unknown layer {name!r} in {what}; the layers {where} are {known}{nearest(name, known)}")

"""Sparse networks that skip pruned weights."""

from .mlp import sparse_mlp
from .pattern import Pattern, make_pattern, pack, unpack, unsupported_reason

__all__ = ["Pattern", "make_pattern", "pack", "sparse_mlp", "unpack", "unsupported_reason"]

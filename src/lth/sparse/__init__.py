"""Networks that skip the work of their pruned weights."""

from .mlp import sparse_mlp
from .pattern import Pattern, make_pattern, obstacle, pack, unpack

__all__ = ["Pattern", "make_pattern", "obstacle", "pack", "sparse_mlp", "unpack"]

"""Masks for an agent of SBX (https://github.com/araffin/sbx): the public names of `algorithms/sac/sbx.py`."""

from .algorithms.sac.sbx import masks_of, prune_sbx, set_masks

__all__ = ["masks_of", "prune_sbx", "set_masks"]

"""Agents of other libraries, Stable-Baselines3 and SBX: read, pruned, and taken over. Neither library is imported here.

`models` says what a model is and what its acting network is, `sbx_masks` and `sb3_masks` hold masks on it while it learns, and
`prune` is `lth.prune_agent`.
"""

"""Support for agents of Stable-Baselines3 and SBX. Neither library is imported here.

`models` recognizes a model and reads its acting network. `sbx_masks` and `sb3_masks` keep masks on it during training. `prune` is
`lth.prune_agent`, and `adopt` is `lth.adopt`.
"""

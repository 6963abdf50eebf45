"""Pruning: arrays in, arrays out. No reinforcement learning, no files, no printing, no configuration.

`prune` is all of it as one function. `layers` says what can be pruned, `names` how people name layers, `criteria` how a weight is
scored and `gradients` what that needs of a loss, `allocation` how many weights go and from where, `masks` which ones exactly,
`schedules` how masks change in training, `structure` what becomes smaller by them. `names`, `criteria` and `allocation` import no
JAX.
"""

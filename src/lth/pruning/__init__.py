"""Pruning: arrays in, arrays out. No reinforcement learning, no files, no printing, no configuration.

`prune` combines everything below into one function. `layers` finds what can be pruned and `names` matches layer names. `criteria`
scores weights and `gradients` computes the statistics that criteria need. `allocation` sets how many weights each layer loses,
`selection` finds them by rank, and `masks` makes masks of them. `schedules` changes masks during training, and `structure` shrinks
networks. `names`, `criteria` and `allocation` do not import JAX.
"""

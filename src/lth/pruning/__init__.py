"""Pruning: arrays in, arrays out. No reinforcement learning, no files, no printing, no configuration.

`criteria` says how a weight is scored, `allocation` how many weights go and from where, `masks` which ones exactly.
"""

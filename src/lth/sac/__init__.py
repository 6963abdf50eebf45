"""Soft actor-critic (Haarnoja et al. 2018, https://arxiv.org/abs/1812.05905).

`networks` are the two networks, `losses` the three losses in the paper's order, `agent` the state and its update,
`acting` the policy in NumPy.
"""

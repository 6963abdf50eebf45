"""Twin delayed DDPG (Fujimoto et al. 2018, https://arxiv.org/abs/1802.09477)."""

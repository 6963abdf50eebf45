"""Deep Q-networks (Mnih et al. 2015, https://doi.org/10.1038/nature14236), double by default (van Hasselt et al. 2016)."""

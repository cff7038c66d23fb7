"""Measurements of what attentions cost, with the results in ``results/``."""

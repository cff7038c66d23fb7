"""Measurements of a model: parameters, multiply-accumulates and gates."""

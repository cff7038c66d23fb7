"""Measurements of a model: complexity, cost, gates, and exactness of its operators."""

"""Checks of a config and its data before training: one rule for each fault.

:mod:`ra_mm.checks.rules` lists all rules.
"""

"""Passes over a graph, in the order in which :mod:`..driver` runs them."""

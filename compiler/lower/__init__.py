"""Lowering: layers of a network to instructions and stream blocks."""

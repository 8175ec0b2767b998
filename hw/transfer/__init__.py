"""What moves between memory and chip: data, code and weights."""

"""The procedural scenes: rooms, light, ray casting, labels."""

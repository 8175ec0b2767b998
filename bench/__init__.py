"""What measures: accuracy, whole frames in RTL, methods of quantisation; and what it found.

The modules measure through the API of `moevit` and give plain JSON types, which lie beside them as
the documentation quotes them (`results.json`, `accuracy.json`, `reference/`).
"""

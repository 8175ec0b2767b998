"""The `moevit` command."""

import os

# Before NumPy is loaded: its matrices here are small, and a second BLAS thread costs more than it
# gives, many times so on a busy machine. Work is divided by images instead.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

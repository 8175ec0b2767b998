"""Environments in which the BLAS and NumPy compute otherwise, as other machines would."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np

__all__ = ["answers", "machines"]


def machines() -> list[dict[str, str]]:
    """Two threads; one, without fused additions and SIMD; another kernel, if there is one."""
    from numpy._core._multiarray_umath import __cpu_features__ as features

    one, two = {"OPENBLAS_NUM_THREADS": "1", "LC_ALL": "C"}, {"OPENBLAS_NUM_THREADS": "2"}
    config: Any = np.show_config(mode="dicts")
    simd = config.get("SIMD Extensions", {}).get("found", [])
    if simd:
        one["NPY_DISABLE_CPU_FEATURES"] = " ".join(simd)
    if features.get("SSE42"):
        one["OPENBLAS_CORETYPE"] = "Nehalem"
    found = [two, one]
    if features.get("AVX512_SKX") and features.get("FMA3"):
        found.append({"OPENBLAS_CORETYPE": "Haswell"})
    return found


def answers(script: str, *arguments: str) -> list[str]:
    """What a script prints in each of :func:`machines`; its last argument is the number of it."""
    running = []
    for number, machine in enumerate(machines()):
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("OPENBLAS", "NPY_"))}
        running.append(
            subprocess.Popen(
                [sys.executable, "-W", "ignore", "-c", script, *arguments, str(number)],
                env={**clean, "OMP_NUM_THREADS": "2", **machine},
                stdout=subprocess.PIPE,
                text=True,
            )
        )
    found = [process.communicate()[0].strip() for process in running]
    assert all(process.returncode == 0 for process in running)
    return found

"""Programs that some tests call."""

from __future__ import annotations

import os
import shutil

import pytest

__all__ = ["need"]


def need(program: str, package: str) -> str:
    """The path of `program`; skips the test without it, and fails it with `MOEVIT_ALL_TESTS`."""
    found = shutil.which(program)
    if found is None:
        said = f"{program}: not installed; apt-get install {package}"
        if os.environ.get("MOEVIT_ALL_TESTS"):
            pytest.fail(said)
        pytest.skip(said)
    return found

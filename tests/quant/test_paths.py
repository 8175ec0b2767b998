"""One place says where caches are, for rendered scenes as for built simulators."""

from __future__ import annotations

from pathlib import Path

import pytest

from moevit.quant.paths import cache_root


def test_where_caches_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from moevit.model.training import data
    from moevit.sim import cache

    assert data.cache_root is cache_root and cache.cache_root is cache_root
    monkeypatch.delenv("MOEVIT_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "moevit"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root() == tmp_path / "xdg" / "moevit"
    monkeypatch.setenv("MOEVIT_CACHE", str(tmp_path / "own"))
    assert cache_root() == tmp_path / "own"

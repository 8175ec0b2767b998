"""What belongs to no command: the version, and completion in a shell."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from moevit import version
from moevit.model.checkpoint import shipped_path


def test_the_version_says_what_is_shipped(moevit, monkeypatch) -> None:
    status, out, _ = moevit("--version")
    digest = hashlib.sha256(shipped_path().read_bytes()).hexdigest()
    assert status == 0
    assert re.fullmatch(
        rf"moevit \S+ \((commit [0-9a-f]{{12}}\+?, )?model nano {digest[:12]}\)\n", out
    )
    monkeypatch.setattr(version, "_git", lambda *_: None)
    assert "commit" not in version.about()


def test_a_commit_that_pip_knows(monkeypatch, tmp_path: Path) -> None:
    text = '{"url": "https://host/moevit", "vcs_info": {"vcs": "git", "commit_id": "%s"}}' % (
        "a1" * 20
    )

    class Installed:
        @staticmethod
        def read_text(name: str) -> str:
            assert name == "direct_url.json"
            return text

    monkeypatch.setattr(version, "__file__", str(tmp_path / "moevit" / "version.py"))
    assert version.commit() is None  # this checkout is installed in place, not from a repository
    monkeypatch.setattr(version.importlib.metadata, "distribution", lambda _name: Installed())
    assert version.commit() == "a1" * 6


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("moevit com", ["compile"]),
        ("moevit run --pre", ["--preset"]),
        ("moevit run --preset zc", ["zcu104", "zcu104-2048"]),
        ("moevit eval --backend g", ["golden"]),
        ("moevit compile --size na", ["nano"]),
        ("moevit quantize --experts int", ["int8", "int4"]),
        ("moevit quantize --method d", ["descent", "default"]),
        ("moevit import e", ["edge-moe"]),
    ],
)
def test_a_shell_completes(words: str, found: list[str]) -> None:
    environment = {
        **os.environ,
        "_MOEVIT_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-m", "moevit.cli.main"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == found


def test_the_shell_s_script() -> None:
    environment = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "moevit.cli.main", "--show-completion", "bash"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "complete -o default -F _moevit_completion moevit" in done.stdout

"""Which moevit this is: its version, its commit where that is known, and its models."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import subprocess
from pathlib import Path

from moevit import model as model_package

__all__ = ["__version__", "about", "commit", "shipped_models"]

__version__ = importlib.metadata.version("moevit")


def commit() -> str | None:
    """The git commit, with a `+` behind it if files were changed; None where it is not known.

    Known of a checkout that is installed in place, and of what pip installed from a repository.
    """
    place = Path(__file__).resolve().parents[1]
    if (place / ".git").exists() and (place / "pyproject.toml").exists():
        found = _git(place, "rev-parse", "--short=12", "HEAD")
        changed = _git(place, "status", "--porcelain", "--untracked-files=no")
        return found and found + ("+" if changed else "")
    try:
        text = importlib.metadata.distribution("moevit").read_text("direct_url.json")
        known = json.loads(text or "{}").get("vcs_info", {}).get("commit_id")
    except (ValueError, AttributeError, importlib.metadata.PackageNotFoundError):
        return None
    return str(known)[:12] if known else None


def _git(place: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(place), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def shipped_models() -> dict[str, str]:
    """SHA-256 of each model that comes with this version, by its size."""
    folder = Path(str(model_package.__file__)).parent / "checkpoints"
    return {
        path.stem: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.glob("*.safetensors"))
    }


def about() -> str:
    """All of it in one line."""
    parts = []
    if (known := commit()) is not None:
        parts.append(f"commit {known}")
    parts += [f"model {name} {digest[:12]}" for name, digest in shipped_models().items()]
    return f"moevit {__version__}" + (f" ({', '.join(parts)})" if parts else "")

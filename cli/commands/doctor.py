"""`moevit doctor`."""

import importlib.metadata
import json
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from moevit.errors import CheckFailedError

from ..health import Item, examine, surroundings
from ..options import Json

__all__ = ["command"]


def command(as_json: Json = False) -> None:
    """Say what is installed, at which version, and what is missing and how to get it.

    The exit status is 1 if something is missing without which moevit does not work.
    """
    items = examine()
    machine = surroundings()
    if as_json:
        version = importlib.metadata.version("moevit")
        found = [asdict(item) for item in items]
        ok = all(item.fine for item in items)
        print(json.dumps({"ok": ok, "version": version, "items": found} | machine, indent=2))
    else:
        _show(items, machine)
    missing = [item.name for item in items if not item.fine]
    if missing:
        raise CheckFailedError(f"missing or unsuitable: {', '.join(missing)}")


def _show(items: list[Item], machine: dict[str, object]) -> None:
    console = Console()
    table = Table(box=None, pad_edge=False)
    for heading in ("", "name", "version", "wanted", "status"):
        table.add_column(heading, no_wrap=heading != "status")
    for item in items:
        optional = "" if item.required else " (optional)"
        status = item.status if item.status == "ok" else f"{item.status}{optional}: {item.cure}"
        style = "" if item.status == "ok" else "yellow" if item.fine else "bold red"
        table.add_row(
            item.kind, item.name, item.version or "-", item.wanted or "any", status, style=style
        )
    console.print(table)
    text = (
        "{processors} processors, {memory_gib} GiB of memory; "
        "cache {cache}: {cache_mib} MiB used, {cache_free_gib} GiB free"
    )
    console.print(text.format(**machine), highlight=False, soft_wrap=True)

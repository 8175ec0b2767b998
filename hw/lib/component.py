"""Amaranth's component, known to type checkers as having members."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amaranth.lib import wiring

__all__ = ["Component"]

if TYPE_CHECKING:

    class Component(wiring.Component[Any]):
        """Its members follow from the signature that it is built with, which no checker sees."""

        def __getattr__(self, name: str) -> Any: ...

else:
    Component = wiring.Component

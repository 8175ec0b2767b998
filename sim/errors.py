"""How a device fails: with one of the hardware's error codes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moevit.quant.errors import MoevitError

if TYPE_CHECKING:  # Amaranth, which listing the errors needs not
    from moevit.hw.registers import Error

__all__ = ["DeviceError"]


class DeviceError(MoevitError, RuntimeError):
    """A frame was given up; ``code`` says why, as the device's ERROR register would, and
    ``damage`` what of a program is damaged, as DAMAGE would."""

    def __init__(self, code: Error, message: str = "", *, damage: int = 0) -> None:
        from moevit.hw.registers import Error

        self.code, self.damage = Error(code), damage
        super().__init__(f"{self.code.name}: {message}" if message else self.code.name)

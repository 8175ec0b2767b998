"""AXI4-Lite register map, error codes and performance counters, as data.

The hardware (``control/axi_lite``), ``docs/isa.md``, the simulator and drivers in any language take
addresses, access, bits and meanings from here. A driver on a board uses this file as it is: it
needs Python 3.10 and nothing else.
"""

from __future__ import annotations

from enum import Enum, IntEnum

__all__ = [
    "COUNTER_BASE",
    "DAMAGE_BITS",
    "DAMAGE_UNIT",
    "DEVICE_ID",
    "DIAL",
    "EXPERT_BASE",
    "REGISTER_ADDRESS_BITS",
    "Access",
    "Control",
    "Counter",
    "Error",
    "Register",
    "Status",
    "damaged",
]

DEVICE_ID = int.from_bytes(b"MoeV", "little")

REGISTER_ADDRESS_BITS = 12
"""Byte addresses of the AXI4-Lite port."""
COUNTER_BASE = 0x100
"""Counter n of the last frame that ended at ``COUNTER_BASE + 4 * n``; read only."""
EXPERT_BASE = 0x200
"""Tokens that it sent to expert e, all layers, at ``EXPERT_BASE + 4 * e``; read only."""

DAMAGE_BITS = 24
"""Of DAMAGE: the number or address; the port lies above."""
DAMAGE_UNIT = 64
"""Bytes that addresses in DAMAGE count."""


class Access(str, Enum):
    """What a host may do with a register."""

    READ_ONLY = "ro"
    """a write is answered with an error"""
    READ_WRITE = "rw"
    """keeps what is written; a START takes the values with it"""
    COMMAND = "w1"
    """each bit that is written as 1 does something, at any time; reads 0"""


class _Described(IntEnum):
    """Members that say in ``meaning`` what they stand for."""

    meaning: str

    def __new__(cls, value: int, meaning: str = "") -> _Described:
        """A member of ``value``."""
        member = int.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member


class Control(_Described):
    """Bit numbers of CONTROL."""

    START = 0, "run the program at PROGRAM_BASE, behind those that wait; ignored while FULL"
    ABORT = 1, "give the frame up, and those that wait"
    CLEAR_IRQ = 2, "clear DONE and FAILED"
    CHAINED = 3, "with START: ignored unless a frame runs or waits, so that none begins unseen"


class Status(_Described):
    """Bit numbers of STATUS. DONE and FAILED stay until CLEAR_IRQ, or a START while not BUSY."""

    BUSY = 0, "a frame is running or waits"
    DONE = 1, "the last frame is complete"
    FAILED = 2, "the last frame was given up, see ERROR, and with it those that waited"
    FULL = 3, "a START would be ignored: as many frames wait as can"


class Error(_Described):
    """Why a frame was given up. The device is idle afterwards and runs the next frame."""

    NONE = 0, "no error"
    HEADER = 1, "the program header has another magic, version or CRC"
    HASH = 2, "the program was compiled for another configuration"
    OPCODE = 3, "the program has an illegal instruction"
    FIELD = 4, "an instruction has a field that is out of range"
    ADDRESS = 5, "an instruction has an address outside its on-chip memory"
    STREAM = 6, "a block of the weight stream has no header, or one with another CRC"
    READ = 7, "a memory read was answered with an error"
    WRITE = 8, "a memory write was answered with an error"
    TRUNCATED = 9, "the program ends without HALT"
    HANG = 10, "no engine advanced for the watchdog's time"
    ABORTED = 11, "the frame was given up on request"
    CODE = 12, "an instruction has another CRC (DAMAGE: its number)"
    TABLE = 13, "a table that a LOAD read has another CRC (DAMAGE: its address)"
    WEIGHTS = 14, "a block of the weight stream has another CRC (DAMAGE: its port and number)"
    FETCHED = 15, "weights that a FETCH read have another CRC (DAMAGE: port and address)"


class Counter(_Described):
    """Performance counters, 32 bits each."""

    CYCLES = 0, "from START, or the end of the frame before if that was later, to done"
    ARRAY_BUSY = 1, "cycles in which the array multiplied"
    STALL_OPERAND = 2, "array waited for tokens (loader, semaphores)"
    STALL_WEIGHT = 3, "array waited for the weight ring"
    STALL_DRAIN = 4, "array waited for the epilogue or the softmax unit to take a tile"
    STALL_SOFTMAX = 5, "array waited for attention weights"
    NO_WORK = 6, "array had no instruction"
    NORM_BUSY = 7, "words that the norm engine wrote"
    GATE_BUSY = 8, "gate unit had tokens"
    SOFTMAX_BUSY = 9, "softmax unit had scores"
    DATA_READ_BEATS = 10, "code, pixels and tables, 16 bytes each"
    DATA_WRITE_BEATS = 11, "results, 16 bytes each"
    WEIGHT_BEATS = 12, "all ports together, demand fetches included"
    DEMAND_BEATS = 13, "those of experts fetched on demand, 16 bytes each"
    MISSES = 14, "experts fetched on demand"
    EMPTY_QUEUES = 15, "expert GEMMs skipped"


class Register(IntEnum):
    """Byte offsets of 32-bit registers.

    ``access`` and ``meaning`` say what each does; ``alignment``: what a frame needs the value to be
    a multiple of, 0 for anything; ``fields``: names of its bits or of its values.
    """

    access: Access
    meaning: str
    alignment: int
    fields: type[IntEnum] | None

    def __new__(
        cls,
        value: int,
        access: Access = Access.READ_ONLY,
        meaning: str = "",
        alignment: int = 0,
        fields: type[IntEnum] | None = None,
    ) -> Register:
        """A register at offset ``value``."""
        member = int.__new__(cls, value)
        member._value_ = value
        member.access, member.meaning = access, meaning
        member.alignment, member.fields = alignment, fields
        return member

    ID = 0x00, Access.READ_ONLY, f"{DEVICE_ID:#x}"
    VERSION = 0x04, Access.READ_ONLY, "version of the instruction set"
    HASH_LOW = 0x08, Access.READ_ONLY, "configuration hash, bits 0..31"
    HASH_HIGH = 0x0C, Access.READ_ONLY, "configuration hash, bits 32..63"
    CONTROL = 0x10, Access.COMMAND, "bits: see Control", 0, Control
    STATUS = 0x14, Access.READ_ONLY, "bits: see Status", 0, Status
    ERROR = 0x18, Access.READ_ONLY, "value: see Error; cleared by START", 0, Error
    PROGRAM_BASE = (
        0x1C,
        Access.READ_WRITE,
        "address of the task's program; changing it switches the task",
        64,
    )
    IMAGE_BASE = 0x20, Access.READ_WRITE, "address of the image", 16
    OUTPUT_BASE = 0x24, Access.READ_WRITE, "address of the outputs", 16
    IRQ_ENABLE = 0x28, Access.READ_WRITE, "bit 0 lets ``irq`` follow done or error"
    FRAMES = 0x2C, Access.READ_ONLY, "frames that ended since reset, complete or given up"
    DAMAGE = (
        0x30,
        Access.READ_ONLY,
        "what has another CRC, if ERROR says so: bits 0..23 number, or address from the program's "
        "base in units of 64 bytes; bits 24..31 port",
    )
    TOP_K = (
        0x40,
        Access.READ_WRITE,
        "4 bits: the most experts a token, if below the router's; 0: as compiled",
    )
    MIN_SCORE = (
        0x44,
        Access.READ_WRITE,
        "15 bits: no expert of a lower score, if above the router's least; 0: as compiled",
    )
    TOP_P = (
        0x48,
        Access.READ_WRITE,
        "16 bits: no expert behind those whose scores add up to that, if below the router's sum; "
        "0: as compiled",
    )


DIAL = {Register.TOP_K: "top_k", Register.MIN_SCORE: "least", Register.TOP_P: "enough"}
"""Registers of a frame's dial, and their fields' names (quant/dial.py)."""


def damaged(error: int, damage: int) -> str:
    """What of a program DAMAGE names, in words; empty for an ``error`` of another kind."""
    block, port = damage & ((1 << DAMAGE_BITS) - 1), damage >> DAMAGE_BITS
    if error == Error.CODE:
        return f"instruction {block}"
    if error == Error.WEIGHTS:
        return f"block {block} of port {port}'s stream"
    if error in (Error.TABLE, Error.FETCHED):
        at = f"{block * DAMAGE_UNIT:#x} from the program's base"
        return f"the table at {at}" if error == Error.TABLE else f"port {port}'s weights at {at}"
    return ""

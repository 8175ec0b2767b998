"""AXI4-Lite register map, error codes and performance counters: used by hardware and drivers."""

from __future__ import annotations

from enum import IntEnum

__all__ = [
    "COUNTER_BASE",
    "DEVICE_ID",
    "EXPERT_BASE",
    "Control",
    "Counter",
    "Error",
    "Register",
    "Status",
]

DEVICE_ID = int.from_bytes(b"MoeV", "little")


class Register(IntEnum):
    """Byte offsets of 32-bit registers; those marked rw can be written while the device is idle."""

    ID = 0x00
    """reads DEVICE_ID"""
    VERSION = 0x04
    """reads the ISA version"""
    HASH_LOW = 0x08
    """configuration hash, bits 0..31"""
    HASH_HIGH = 0x0C
    """configuration hash, bits 32..63"""
    CONTROL = 0x10
    """write: see Control; reads 0"""
    STATUS = 0x14
    """see Status"""
    ERROR = 0x18
    """see Error; cleared by START"""
    PROGRAM_BASE = 0x1C
    """rw: address of the task's program, a multiple of 64. Changing it switches the task."""
    IMAGE_BASE = 0x20
    """rw: address of the image, a multiple of 16"""
    OUTPUT_BASE = 0x24
    """rw: address of the outputs, a multiple of 16"""
    IRQ_ENABLE = 0x28
    """rw: bit 0 lets ``irq`` follow done or error"""


COUNTER_BASE = 0x100
"""Counter n at ``COUNTER_BASE + 4 * n``; cleared by START."""
EXPERT_BASE = 0x200
"""Tokens sent to expert e in this frame, all layers, at ``EXPERT_BASE + 4 * e``."""


class Control(IntEnum):
    """Bit numbers of CONTROL."""

    START = 0
    """run the program at PROGRAM_BASE; ignored while busy"""
    ABORT = 1
    """give the frame up"""
    CLEAR_IRQ = 2
    """clear DONE and FAILED"""


class Status(IntEnum):
    """Bit numbers of STATUS. DONE and FAILED stay until START or CLEAR_IRQ."""

    BUSY = 0
    """a frame is running"""
    DONE = 1
    """the last frame is complete"""
    FAILED = 2
    """the last frame was given up, see ERROR"""


class Error(IntEnum):
    """Why a frame was given up. The device is idle afterwards and runs the next frame."""

    NONE = 0
    """no error"""
    HEADER = 1
    """magic or version of the program header"""
    HASH = 2
    """program for another configuration"""
    OPCODE = 3
    """illegal instruction"""
    FIELD = 4
    """an instruction's field is out of range (no tiles, too many experts, ...)"""
    ADDRESS = 5
    """an address outside an on-chip memory"""
    STREAM = 6
    """a stream block without its magic"""
    READ = 7
    """an AXI read answered with an error"""
    WRITE = 8
    """an AXI write answered with an error"""
    TRUNCATED = 9
    """the program ended without HALT"""
    HANG = 10
    """no engine advanced for the watchdog's time"""
    ABORTED = 11
    """given up on request"""


class Counter(IntEnum):
    """Performance counters, 32 bits each."""

    CYCLES = 0
    """from START to done"""
    ARRAY_BUSY = 1
    """cycles in which the array multiplied"""
    STALL_OPERAND = 2
    """array waited for tokens (loader, semaphores)"""
    STALL_WEIGHT = 3
    """array waited for the weight ring"""
    STALL_DRAIN = 4
    """array waited for the epilogue or the softmax unit to take a tile"""
    STALL_SOFTMAX = 5
    """array waited for attention weights"""
    NO_WORK = 6
    """array had no instruction"""
    NORM_BUSY = 7
    """words that the norm engine wrote"""
    GATE_BUSY = 8
    """gate unit had tokens"""
    SOFTMAX_BUSY = 9
    """softmax unit had scores"""
    DATA_READ_BEATS = 10
    """code, pixels and tables, 16 bytes each"""
    DATA_WRITE_BEATS = 11
    """results, 16 bytes each"""
    WEIGHT_BEATS = 12
    """all ports together, demand fetches included"""
    DEMAND_BEATS = 13
    MISSES = 14
    """experts fetched on demand"""
    EMPTY_QUEUES = 15
    """expert GEMMs skipped"""

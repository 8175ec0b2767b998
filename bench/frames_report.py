"""`moevit bench --size` for people: the frame's figures, and one table beside the peers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .peers import PEER_NOTE, PEERS

__all__ = ["beside_peers", "clocks", "formats", "text"]


def formats(frame: Mapping[str, Any]) -> str:
    """Which weights of a frame's network have how many bits."""
    narrow = frame.get("weights") == "int4"
    return "int4 weights" if narrow else f"{frame['experts']} experts"


def text(frame: Mapping[str, Any]) -> str:
    """Everything that was measured of a frame."""
    energy = frame["energy_estimate"]
    low, high = energy["millijoules"]
    cycles = frame["cycles"]
    stalls = {"busy": frame["array_busy_cycles"], **frame["stall_cycles"]}
    lines = [
        f"{frame['size']}, {frame['image_size']} pixels, {frame['tokens']} tokens, task "
        f"{frame['task']}, router {frame['router']}, {formats(frame)}, preset "
        f"{frame['preset']}: {frame['macs_per_cycle']:,} MACs a cycle",
        f"  simulated   {cycles:,} cycles from pixels to features, bit-exact; the head "
        f"{frame['head_cycles']:,} more",
        f"  at a target clock of {clocks(frame)} MHz, not placed and routed: "
        f"{frame['ms']:.3f} ms, {frame['fps']:,.0f} frames a second",
        f"  MAC utilisation {frame['mac_utilisation']:.1%} of {frame['useful_macs']:,} products",
        "  array       " + ", ".join(f"{n} {c:,} ({c / cycles:.1%})" for n, c in stalls.items()),
        f"  memory      {frame['bytes_read']:,} bytes read, {frame['bytes_written']:,} written, "
        f"{frame['misses']} experts fetched on demand",
        f"  estimate    {frame['estimate_cycles']:,} cycles ({frame['estimate_error']:+.1%})",
        f"  simulator   {frame['simulation_s']:.1f} s, "
        f"{frame['simulated_cycles_per_s']:,.0f} cycles a second",
        f"  energy      {low:.1f} to {high:.1f} mJ, estimated: {energy['assumes']}",
    ]
    if "switch_cycles" in frame:
        each = ", ".join(f"{f['task']} {f['cycles']:,}" for f in frame["frames"])
        lines.append(f"  frames      {each}; switching tasks costs {frame['switch_cycles']} cycles")
    if "stream" in frame:
        each = ", ".join(f"{f['task']} {f['cycles']:,}" for f in frame["stream"]["frames"])
        mean = frame["stream"]["mean_cycles"]
        lines.append(
            f"  in a row    {each}, bit-exact; behind another {mean:,.0f} on average, "
            f"{frame['clock_mhz'] * 1e6 / mean:,.0f} frames a second"
        )
    if "on_demand" in frame:
        miss = frame["on_demand"]
        lines.append(
            f"  misses      {miss['misses']} experts fetched on demand: {miss['cycles']:,} cycles, "
            f"{miss['extra_cycles_a_miss']:,.0f} more and {miss['bytes_a_miss']:,.0f} bytes a miss"
        )
    if "all_tasks" in frame:
        whole = frame["all_tasks"]
        lines.append(
            f"  all tasks   {whole['cycles']:,} cycles in one run, bit-exact; "
            f"{whole['single_cycles_sum']:,} one by one ({whole['saved']:.1%} saved)"
        )
    return "\n".join([*lines, "", beside_peers([frame]), "", PEER_NOTE])


def clocks(frame: Mapping[str, Any]) -> str:
    """MHz of a frame's configuration, and of its multipliers where that is another clock."""
    clock = frame["clock_mhz"]
    fast = frame.get("multiplier_clock_mhz", clock)
    return f"{clock:g}" if fast == clock else f"{clock:g} (multipliers {fast:g})"


def beside_peers(frames: list[Mapping[str, Any]]) -> str:
    """A Markdown table: each frame, then each peer; FPS/(DSP x MHz) by the slower clock.

    The DSPs of a configuration are counted in one of its frames and hold for all of them.
    """
    counted = {f["config_hash"]: f["dsp"] for f in frames if "dsp" in f}
    rows = [
        ["design", "tokens", "cycles", "MHz", "ms", "fps", "DSP", "FPS/(DSP x MHz)", "mJ"],
        ["---"] + ["---:"] * 8,
    ]
    for f in frames:
        dsp = counted.get(f["config_hash"])
        efficiency = f"{f['fps'] / (dsp * f['clock_mhz']):.2e}" if dsp else "-"
        low, high = f["energy_estimate"]["millijoules"]
        rows.append(
            [
                f"**moevit** {f['preset']}, {f['router']} router, {formats(f)} "
                "(simulated; target clock)",
                f"{f['tokens']:,}",
                f"{f['cycles']:,}",
                clocks(f),
                f"{f['ms']:.3f}",
                f"{f['fps']:,.0f}",
                "-" if dsp is None else f"{dsp:,}",
                efficiency,
                f"{low:.0f}-{high:.0f} (estimated)",
            ]
        )
    for p in PEERS:
        rows.append(
            [
                f"{p.name}, {p.board} (printed)",
                "129 / 197",
                "-",
                f"{p.mhz}",
                f"{p.ms:.2f}",
                f"{p.fps:.1f}",
                "-" if p.dsp is None else f"{p.dsp:,}",
                "-" if p.fps_per_dsp_mhz is None else f"{p.fps_per_dsp_mhz:.2e}",
                f"{p.millijoules:g}",
            ]
        )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)

"""`moevit build` from the command to the bundle, with a `vivado` that is the stand-in."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import vivado_reports as samples
from support.bitstreams import fake_vivado, hollow_verilog, written

from moevit.boards.bitstream import inputs, vivado
from moevit.boards.driver.bundle import Bundle
from moevit.cli.main import main
from moevit.hw.config import preset

PATH_LATE = (-0.204, "Setup", "core/compute/gate/list_reg/C", "core/compute/softmax/sum_reg/D")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    hollow_verilog(monkeypatch)
    return monkeypatch


def ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extra: str = "", **samples_: str
) -> Path:
    """A fake Vivado for `micro` on the ZCU104; returns where to build."""
    folder = written(tmp_path / "first", "zcu104", preset("micro"), monkeypatch)
    given = samples.write_samples(tmp_path / "samples", **samples_)
    fake_vivado(folder, tmp_path / "bin", monkeypatch, given + extra)
    return tmp_path / "build"


def build(target: Path, *more: str) -> int:
    words = ["build", "--board", "zcu104", "--preset", "micro", "-o", str(target), "--no-estimate"]
    return main([*words, *more])


def test_from_the_command_to_the_bundle(tmp_path: Path, quick, capsys) -> None:
    handoff = '<PARAMETER NAME="PSU__CRL_APB__PL0_REF_CTRL__ACT_FREQMHZ" VALUE="99.999001"/>'
    extra = f"proc standin_handoff {{file}} {{ standin_write $file {{{handoff}}} }}\n"
    target = ready(tmp_path, quick, extra)
    assert build(target) == 0
    out = capsys.readouterr().out
    assert "slack +0.051 ns (setup), +0.012 ns (hold); 7.513 W" in out
    assert f"bundle: {target / 'bundle'}" in out
    about = json.loads((target / "build.json").read_text())
    assert about["status"] == "built"
    assert about["result"]["timing"]["worst"]["weights"]["slack"] == 0.073
    assert about["result"]["vivado"] == "2023.2"
    assert len(about["strategies"]) == 4
    bundle = Bundle.read(target / "bundle")
    assert bundle.manifest.board == "zcu104"
    assert bundle.manifest.clock_mhz == 99.999001  # not the 100 that were asked for
    assert bundle.manifest.timing is not None
    assert (bundle.manifest.timing.met, bundle.manifest.timing.allowed) == (True, False)
    assert bundle.one("bitstream").read_bytes() == samples.bitstream()
    for role in ("bitstream-bin", "handoff", "platform", "overlay-source", "overlay", "config"):
        bundle.one(role)
    assert len(bundle.all("report")) == 8
    assert bundle.one("overlay").read_bytes()[:4] == bytes.fromhex("d00dfeed")


def test_a_missed_clock_names_its_blocks_and_gives_no_bundle(tmp_path: Path, quick, capsys) -> None:
    late = samples.timing(slack=-0.204, paths=[PATH_LATE, *samples.PATHS])
    target = ready(tmp_path, quick, report_timing_summary=late)
    assert build(target) == 1
    said = capsys.readouterr().err
    assert "timing is not met: slack is -0.204 ns (setup)" in said
    assert "worst: gate to softmax -0.204" in said
    assert not (target / "bundle").exists()
    assert json.loads((target / "build.json").read_text())["status"] == "timing not met"
    # Allowed, it is written into the bundle for good.
    assert main(["build", "--collect", str(target), "--no-estimate", "--allow-timing-failure"]) == 0
    bundle = Bundle.read(target / "bundle")
    assert bundle.manifest.timing is not None
    assert (bundle.manifest.timing.met, bundle.manifest.timing.allowed) == (False, True)
    assert bundle.manifest.timing.wns_ns == -0.204
    assert json.loads((target / "build.json").read_text())["timing_failure_allowed"] is True
    # A second look without the option takes the bundle away again.
    assert main(["build", "--collect", str(target), "--no-estimate"]) == 1
    assert not (target / "bundle").exists()


def test_the_best_strategy_is_taken_and_missing_ones_left_out(tmp_path: Path, quick) -> None:
    extra = """
    set standin(strategies) Performance_*s*
    proc standin_slack {run} {
      return [expr {[string match *physopt $run] ? {-0.1 0.01} : {0.02 0.01}}]
    }
    """
    target = ready(tmp_path, quick, extra)
    assert build(target) == 0
    about = json.loads((target / "build.json").read_text())
    assert [(s["run"], s["wns_ns"]) for s in about["strategies"]] == [
        ("impl_performance_explorepostroutephysopt", -0.1)
    ]
    assert any("strategy Performance_Retiming: this Vivado has none" in n for n in about["notes"])


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ("proc standin_progress {run} { return 17% }", "step synthesis: synthesis failed"),
        ("set standin(parts) none", "step start: part xczu7ev-ffvc1156-2-e: not installed"),
        ("proc make_wrapper {args} { error gone }", "step design"),
        ("proc standin_handoff {file} {}", "no hardware handoff"),
    ],
)  # fmt: skip
def test_a_step_that_fails_is_named(tmp_path: Path, quick, capsys, extra: str, said: str) -> None:
    target = ready(tmp_path, quick, extra)
    assert build(target) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1 or "moevit build:" in error
    about = json.loads((target / "build.json").read_text())
    assert about["status"] == "failed"
    assert not (target / "bundle").exists()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("report_power", "nothing", r"power\.rpt: is no report that is known"),
        ("report_utilization", "nothing", r"utilization\.rpt: is no report that is known"),
        ("bitstream", "nothing", r"moevit\.bit: is no bitstream of Vivado"),
        ("report_drc", samples.drc(error=True), "MDRV-1: Multiple Driver Nets"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_an_error(
    tmp_path: Path, quick, capsys, name: str, content: str, said: str
) -> None:
    target = ready(tmp_path, quick, **{name: content})
    assert build(target) == 2
    assert re.search(said, capsys.readouterr().err)
    assert not (target / "bundle").exists()


@pytest.mark.parametrize(("version", "status"), [("2019.2", 2), ("2020.2", 0), ("2025.1", 0)])
def test_versions(tmp_path: Path, quick, capsys, version: str, status: int) -> None:
    folder = written(tmp_path / "first", "zcu104", preset("micro"), quick)
    given = samples.write_samples(tmp_path / "samples", version)
    if version < "2021.2":
        given += "rename wait_on_runs {}\n"
    fake_vivado(folder, tmp_path / "bin", quick, given, version)
    assert build(tmp_path / "build") == status
    if status:
        said = capsys.readouterr().err
        assert "is version 2019.2; expected 2020.2 or newer" in said
        assert not (tmp_path / "build").exists()


def test_without_vivado_the_way_on_is_told(tmp_path: Path, quick, capsys) -> None:
    quick.setattr(vivado.shutil, "which", lambda _name: None)
    target = tmp_path / "b"
    assert build(target) == 0
    out = capsys.readouterr().out
    assert f"to build: cd {target / 'vivado'} && vivado -mode batch" in out
    assert f"moevit build --collect {target}" in out
    assert main(["build", "--collect", str(target)]) == 2
    assert "utilization.rpt: no such report" in capsys.readouterr().err
    assert build(target) == 0  # again over the old one


def test_bad_input(tmp_path: Path, quick, capsys) -> None:
    def fails(*words: str) -> str:
        assert main(["build", *words]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        return said

    out = str(tmp_path / "b")
    assert "Unknown board 'zcu105'" in fails("--board", "zcu105", "-o", out)
    assert "--inputs: is of a vendor's flow" in fails("--board", "ulx3s", "-o", out, "--inputs")
    assert "--clock and --seed" in fails("--board", "zcu104", "-o", out, "--clock", "100")
    assert "51.7 MHz cannot be made" in fails("--board", "ulx3s", "-o", out, "--clock", "51.7")
    said = fails("--board", "ultra96v2", "--preset", "zcu104", "-o", out)
    assert "does not fit ultra96v2: " in said
    assert "the largest preset that does is default" in said
    assert "expected both, or --collect" in fails("--board", "zcu104")
    assert "expected one of" in fails("--board", "zcu104", "-o", out, "--preset", "x")
    (tmp_path / "c.json").write_text("{}")
    assert "c.json" in fails("--board", "zcu104", "-o", out, "--config", str(tmp_path / "c.json"))
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "notes.txt").write_text("mine")
    assert "exists and is no build" in fails("--board", "zcu104", "-o", str(taken), "--inputs")
    assert (taken / "notes.txt").read_text() == "mine"
    assert "build.json: no such file" in fails("--collect", str(taken))
    (taken / "build.json").write_text('{"format": "moevit-build-1", "board": "zcu104"}')
    assert "field 'config' is missing" in fails("--collect", str(taken))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.json", "taken"]


def test_no_space_leaves_nothing(tmp_path: Path, quick, capsys) -> None:
    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "design.tcl")

    quick.setattr(inputs.design, "block_design", full)
    assert build(tmp_path / "b", "--inputs") == 2
    assert "design.tcl: No space left on device" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_programs_belong_to_their_configuration(tmp_path: Path, quick, capsys) -> None:
    from moevit.compiler import compile_network
    from moevit.quant.random_network import Sizes, random_network

    path = tmp_path / "some.moevit"
    compile_network(random_network(1, Sizes(image_width=16)), preset("micro")).save(path)
    out, words = tmp_path / "b", ["build", "--board", "zcu104", "--inputs", "--program", str(path)]
    assert main([*words, "-o", str(out), "--preset", "default"]) == 2
    assert "some.moevit: is for configuration 0x" in capsys.readouterr().err
    assert not out.exists()
    # Without a preset it is the program's.
    assert main([*words, "-o", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["config"]["name"] == "micro"
    assert told["hash"] == f"{preset('micro').hash:#018x}"
    assert (out / "programs" / "some.moevit").read_bytes() == path.read_bytes()
    (tmp_path / "other").mkdir()
    same = tmp_path / "other" / "some.moevit"
    same.write_bytes(path.read_bytes())
    assert main([*words, "--program", str(same), "-o", str(out)]) == 2
    assert "two files of the same name" in capsys.readouterr().err


HANGS = """\
proc launch_runs {args} {
  set pipe [open {|sh -c {setsid sh -c "echo up; sleep 300 & wait" & echo up; sleep 300}}]
  gets $pipe
  gets $pipe
  puts "MOEVIT step bitstream"
  flush stdout
  vwait forever
}
"""


def test_an_interrupt_ends_every_process(tmp_path: Path, quick) -> None:
    ready(tmp_path, quick, HANGS)
    folder = tmp_path / "first" / "vivado"
    script = (
        "import sys; from pathlib import Path; from moevit.boards.bitstream import vivado\n"
        "vivado.run(Path(sys.argv[1]), vivado.find(), lambda what, _s: print(what, flush=True))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, text=True,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == "bitstream":
            break
    mark = str(tmp_path).encode()

    def left() -> list[int]:
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) not in (os.getpid(), process.pid):
                try:
                    environment = (entry / "environ").read_bytes()
                except OSError:
                    continue
                if b"MOEVIT_BUILD_TOKEN=" in environment and mark in environment:
                    found.append(int(entry.name))
        return found

    assert len(left()) >= 3  # tclsh, and shells of two sessions
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) != 0
    assert left() == []


def test_find_says_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "vivado"
    program.write_text("#!/bin/sh\necho hello\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(vivado.VivadoVersionError, match="does not say its version"):
        vivado.find()
    assert shutil.which("vivado") == str(program)

"""`moevit quantize`, `compile`, `disasm`, `estimate`, `verilog`, `train` and `bench`'s tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moevit.bench import benchmark
from moevit.compiler import Program
from moevit.hw.config import preset
from moevit.quant.io import load_network
from moevit.quant.network import Moe


@pytest.fixture
def program(moevit, checkpoint) -> Path:
    status, out, err = moevit(
        "compile", "--json", "--model", checkpoint, "--preset", "micro", "-o", "p.moevit"
    )
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert found["config_hash"] == f"{preset('micro').hash:016x}"
    assert set(found["instructions"]) == set(Program.load("p.moevit").tasks)
    return Path("p.moevit")


def test_disasm(moevit, program) -> None:
    status, out, _ = moevit("disasm", program, "--task", "depth")
    assert status == 0
    assert "task depth" in out and "task edges" not in out
    assert "HALT" in out and "GEMM" in out and "block 1: stream" in out


def test_disasm_of_what_is_no_program(moevit, program, checkpoint) -> None:
    Path("cut.moevit").write_bytes(program.read_bytes()[:-100])
    for path in ("cut.moevit", checkpoint, "missing.moevit"):
        status, out, err = moevit("disasm", path)
        assert (status, out) == (2, "") and err.count("\n") == 1
        assert Path(path).name in err
    status, _, err = moevit("disasm", program, "--task", "nope")
    assert status == 2 and "unknown task 'nope'" in err


def test_estimate(moevit, program, checkpoint) -> None:
    status, out, _ = moevit("estimate", "--json", "--program", program, "--task", "depth")
    assert status == 0
    found = json.loads(out)
    assert {"cycles", "mac_utilisation", "bytes_read", "by_engine"} <= set(found)
    assert 0 < found["mac_utilisation"] < 1 and found["cycles"] > 0
    status, out, _ = moevit(
        "estimate", "--json", "--model", checkpoint, "--preset", "micro", "--task", "depth"
    )
    assert status == 0 and json.loads(out) == found
    status, out, _ = moevit("estimate", "--json", "--program", program, "--task", "depth,edges")
    both = json.loads(out)
    assert both["cycles"] == sum(task["cycles"] for task in both["tasks"].values())
    assert both["by_engine"]["array"] == sum(
        task["by_engine"]["array"] for task in both["tasks"].values()
    )
    status, _, err = moevit("estimate", "--program", program, "--model", checkpoint)
    assert status == 2 and "cannot be given together" in err


def test_experts_of_four_bits(moevit, checkpoint, program) -> None:
    """Quantised once with each, less traffic, and refused where it cannot mean anything."""
    common = ("--model", checkpoint, "--preset", "micro", "--task", "depth")
    sizes = {}
    for experts in ("int8", "int4"):
        status, out, err = moevit("estimate", "--json", *common, "--experts", experts)
        assert (status, err) == (0, "")
        sizes[experts] = json.loads(out)["bytes_read"]
    assert sizes["int4"] < sizes["int8"]
    status, out, err = moevit(
        "run", "--json", *common, "--experts", "int4", "--backend", "interpreter"
    )
    assert (status, err) == (0, "") and json.loads(out)["results"][0]["bit_exact"]

    status, out, _ = moevit("quantize", "--json", "--model", checkpoint, "--experts", "int4",
                            "--images", 2)  # fmt: skip
    network = load_network(json.loads(out)["output"])
    assert isinstance(network.blocks[1].mlp, Moe)
    assert network.blocks[1].mlp.experts[0].fc1.weight_bits == 4
    for arguments, text in (
        ((*common, "--experts", "int3"), "unknown format 'int3'; expected int8, int4"),
        (("--model", "network.safetensors", "--experts", "int4"), "is quantised already"),
        (("--program", program, "--experts", "int4"), "together with --experts"),
    ):
        status, out, err = moevit("estimate", *arguments)
        assert (status, out) == (2, "") and text in err and err.count("\n") == 1


def test_quantize(moevit, checkpoint) -> None:
    status, out, err = moevit("quantize", "--json", "--model", checkpoint, "--images", 2)
    assert (status, err) == (0, "")
    found = json.loads(out)
    network = load_network(found["output"])
    assert found["tasks"] == list(network.tasks)
    assert network.meta["quantisation"]["images"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--clip", "guess"], "Clip must be one of minmax, percentile, mse, not 'guess'"),
        (["--percentile", "3"], "Percentile must be above 50"),
        (["--images", "0"], "--images"),
    ],
)
def test_quantize_with_bad_options(moevit, checkpoint, arguments, message) -> None:
    status, out, err = moevit("quantize", "--model", checkpoint, *arguments)
    assert (status, out) == (2, "") and message in err and err.count("\n") == 1
    assert not Path("network.safetensors").exists()


def test_compile_for_a_preset_that_cannot_hold_it(moevit, checkpoint, monkeypatch) -> None:
    from moevit.hw import config

    small = preset("micro").but(name="small", memory__activation_words=32)
    monkeypatch.setitem(config.PRESETS, "small", small)
    status, out, err = moevit("compile", "--model", checkpoint, "--preset", "small", "-o", "p")
    assert (status, out) == (2, "") and err.count("\n") == 1
    assert not Path("p").exists()


def test_quantising_twice(moevit, checkpoint) -> None:
    moevit("quantize", "--model", checkpoint, "--images", 1, "-o", "n.safetensors")
    status, _, err = moevit("quantize", "--model", "n.safetensors")
    assert status == 2 and "n.safetensors: is quantised already" in err
    status, _, err = moevit("eval", "--model", "n.safetensors", "--backend", "torch")
    assert status == 2 and "backend torch needs a checkpoint" in err


def test_verilog_refuses_a_file_for_a_folder(moevit) -> None:
    Path("there").write_text("a file")
    status, _, err = moevit("verilog", "--preset", "micro", "-o", "there")
    assert status == 2 and "there: is a file" in err
    status, _, err = moevit("verilog", "--preset", "nope")
    assert status == 2 and "Unknown preset 'nope'" in err


def test_train_with_bad_options(moevit) -> None:
    status, _, err = moevit("train", "--size", "nope")
    assert status == 2 and "Size must be one of" in err
    Path("there").mkdir()
    status, _, err = moevit("train", "-o", "there")
    assert status == 2 and "there: is a folder" in err


# The benchmark's page --------------------------------------------------------------------------
def test_insert_replaces_what_is_between_the_markers(tmp_path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{benchmark.BEGIN}\nold\n{benchmark.END}\nafter\n")
    text = benchmark.insert(page, "new")
    assert text == f"before\n{benchmark.BEGIN}\n\nnew\n\n{benchmark.END}\nafter\n"
    page.write_text("no markers")
    with pytest.raises(ValueError, match=r"page\.md: lacks the lines"):
        benchmark.insert(page, "new")


def test_presets_of_the_benchmark() -> None:
    assert benchmark.check_presets("default, zcu104") == [preset("default"), preset("zcu104")]
    for text in ("", ",", "default,nope"):
        with pytest.raises(ValueError, match="Unknown preset"):
            benchmark.check_presets(text)


def test_defaults_of_train_are_the_trainers() -> None:
    """The command repeats the defaults because it must not import torch for its help."""
    import dataclasses
    import inspect

    from moevit.cli.commands.train import command
    from moevit.model.training.trainer import TrainConfig

    found = {name: p.default for name, p in inspect.signature(command).parameters.items()}
    fields = {f.name: f.default for f in dataclasses.fields(TrainConfig)}
    assert set(fields) - set(found) == {"out", "model"}
    for name in set(fields) & set(found):
        assert found[name] == fields[name], name


def test_models_with_random_weights(moevit) -> None:
    """--image-size stands for sizes that are not shipped; refusals say what is wrong."""
    for arguments, word in (
        (("--image-size", "16x30"), "multiple of patch 8"),
        (("--image-size", "16"), "expected HxW"),
        (("--image-size", "16x32", "--model", "x"), "cannot be given together with --model"),
        (("--size", "small"), "or give --image-size"),
        (("--program", "x", "--image-size", "16x32"), "together with --image-size"),
        (("--program", "x", "--set", "top_k=1"), "together with --set"),
        (("--set", "top_k=1", "--method", "gptq"), "cannot be given together with --method"),
        (("--set", "decoder=round"), "--set decoder: expected linear or upsampling"),
    ):
        status, out, err = moevit("estimate", *arguments)
        assert (status, out) == (2, "") and word in err and err.count("\n") == 1
    status, out, err = moevit(
        "compile", "--json", "--image-size", "16x16", "--preset", "default", "--task", "depth"
    )
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert found["scratch_bytes"] == 0 < found["output_bytes"]
    assert Program.load("program.moevit").geometry.tokens == 5

"""`moevit run` and `moevit eval` on a micro model."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moevit.model.config import DEFAULT_KINDS
from moevit.quant.golden import Golden

RESULT_KEYS = {
    "image",
    "task",
    "bit_exact",
    "cycles",
    "ms",
    "fps",
    "mac_utilisation",
    "bytes_read",
    "simulated_cycles_per_s",
    "metrics",
}


def options(checkpoint: Path, backend: str = "golden") -> list[object]:
    return ["--model", checkpoint, "--preset", "micro", "--backend", backend]


def is_png(path: Path) -> bool:
    with Image.open(path) as image:
        image.load()
        return image.format == "PNG" and image.width > 600


@pytest.mark.parametrize("backend", ["golden", "interpreter", "torch"])
def test_a_scene_under_all_tasks(moevit, checkpoint, backend, tmp_path) -> None:
    status, out, err = moevit("run", "--json", *options(checkpoint, backend))
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert {k: v for k, v in found.items() if k != "results"} == {
        "preset": "micro",
        "size": "micro",
        "backend": backend,
    }
    assert [r["task"] for r in found["results"]] == list(DEFAULT_KINDS)
    for result in found["results"]:
        assert set(result) == RESULT_KEYS
        assert result["bit_exact"] is (None if backend == "torch" else True)
        assert result["cycles"] is None
        device, reference = result["metrics"]["device"], result["metrics"]["float"]
        assert set(device) == set(reference)
        assert all(np.isfinite(v) for v in [*device.values(), *reference.values()])
        if backend == "torch":
            assert device == reference
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["scene-0-panel.png"]
    assert is_png(tmp_path / "out" / "scene-0-panel.png")


@pytest.mark.parametrize("backend", ["golden", "interpreter"])
def test_fewer_experts(moevit, checkpoint, backend) -> None:
    command = ("run", "--json", "--task", "depth", *options(checkpoint, backend))
    whole = json.loads(moevit(*command)[1])
    status, out, err = moevit(*command, "--top-k", 1, "--top-p", 0.7, "--min-score", 0)
    found = json.loads(out)
    assert (status, err) == (0, "") and "dial" not in whole
    assert found["dial"] == {"top_p": 0.7, "min_score": 0, "top_k": 1}
    assert found["results"][0]["bit_exact"] is True
    assert found["results"][0]["metrics"]["device"] != whole["results"][0]["metrics"]["device"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--top-p", 0), "--top-p: must be above 0 to 1, not 0.0"),
        (("--min-score", 1), "--min-score: must be from 0 to below 1, not 1.0"),
        (("--top-k", 0), "--top-k: must be from 1 to 4095, not 0"),
        (("--top-k", 5), "The dial asks for more than the program was compiled for: top_k 5"),
    ],
)
def test_dials_that_are_refused(moevit, checkpoint, given, message, tmp_path) -> None:
    status, out, err = moevit("run", *options(checkpoint), *given)
    assert (status, out) == (2, "") and message in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_images_of_the_users(moevit, checkpoint, tmp_path) -> None:
    rng = np.random.default_rng(0)
    paths = [tmp_path / "a" / "x.png", tmp_path / "b" / "x.png", tmp_path / "y.jpg"]
    for n, path in enumerate(paths):
        path.parent.mkdir(exist_ok=True)
        pixels = rng.integers(0, 256, (40 + n, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    status, out, _ = moevit(
        "run", "--json", "--task", "edges,depth", "-o", "new", *options(checkpoint), *paths
    )
    assert status == 0
    results = json.loads(out)["results"]
    assert [(r["image"], r["task"]) for r in results] == [
        (str(path), task) for path in paths for task in ("edges", "depth")
    ]
    assert all(r["metrics"] == {"float": None, "device": None} for r in results)
    names = {"x-panel.png", "x-2-panel.png", "y-panel.png"}
    assert {path.name for path in (tmp_path / "new").iterdir()} == names


def test_table(moevit, checkpoint) -> None:
    status, out, _ = moevit("run", "--task", "depth", *options(checkpoint))
    assert status == 0
    for word in ("task", "cycles", "MAC", "read", "scene 0: micro", "RMSE m", "yes"):
        assert word in out
    assert "panel: out/scene-0-panel.png" in out


def test_another_integer_is_found(moevit, checkpoint, monkeypatch, tmp_path) -> None:
    original = Golden.run

    def run(self, image, task, *, trace=False):
        result = original(self, image, task, trace=trace)
        result.output[1, 2] += 3 * trace  # not what the device computes with
        return result

    monkeypatch.setattr(Golden, "run", run)
    status, out, err = moevit("run", "--json", "--task", "depth,edges", *options(checkpoint))
    assert status == 1
    assert err.count("\n") == 1 and "Traceback" not in err
    assert "1 of 2 results are not bit exact: scene 0, task depth: 1 of " in err
    assert "first at (1, 2)" in err
    assert [r["bit_exact"] for r in json.loads(out)["results"]] == [False, True]


def test_a_quantised_network_instead_of_a_checkpoint(moevit, checkpoint, tmp_path) -> None:
    status, _, _ = moevit("quantize", "--model", checkpoint, "--images", 2, "-o", "n.safetensors")
    assert status == 0
    status, out, _ = moevit("run", "--json", "--task", "depth", *options(Path("n.safetensors")))
    assert status == 0
    (result,) = json.loads(out)["results"]
    assert result["bit_exact"] is True
    assert result["metrics"]["float"] is None and result["metrics"]["device"] is not None


@pytest.mark.parametrize("backend", ["torch", "golden", "interpreter"])
def test_eval(moevit, checkpoint, backend) -> None:
    status, out, err = moevit("eval", "--json", "--images", 3, *options(checkpoint, backend))
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert set(found) == {"backend", "images", "tasks", "delta_m", "interval"}
    assert found["backend"] == backend and found["images"] == 3
    assert list(found["tasks"]) == list(DEFAULT_KINDS)
    assert found["delta_m"] == 0 if backend == "torch" else abs(found["delta_m"]) < 20
    interval = found["interval"]
    low, high = interval["delta_m"]
    assert low <= found["delta_m"] <= high and (low == high) == (backend == "torch")
    assert (interval["level"], interval["draws"]) == (0.95, 1000)
    for task, metrics in found["tasks"].items():
        assert interval["tasks"][task].keys() == metrics.keys()
    low, high = interval["tasks"]["depth"]["rmse"]
    assert low < found["tasks"]["depth"]["rmse"] < high


def test_eval_for_people(moevit, checkpoint, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    given = options(checkpoint, "golden")
    status, out, err = moevit("eval", "--images", 3, *given)
    assert (status, err) == (0, "")
    _, text, _ = moevit("eval", "--json", "--images", 3, *given)
    found = json.loads(text)
    low, high = found["interval"]["tasks"]["depth"]["rmse"]
    value = found["tasks"]["depth"]["rmse"]
    assert re.search(rf"depth\W+rmse\W+{value:.4f}\W+{low:.4f} \.\. {high:.4f}", out)
    low, high = found["interval"]["delta_m"]
    assert f"float model: {found['delta_m']:+.2f} % ({low:+.2f} .. {high:+.2f})" in out


def test_one_image_has_no_interval(moevit, checkpoint) -> None:
    given = ("--images", 1, *options(checkpoint, "golden"))
    status, out, _ = moevit("eval", "--json", *given)
    assert status == 0 and json.loads(out)["interval"] is None
    status, out, _ = moevit("eval", *given)
    assert status == 0 and "interval" not in out.lower() and " .. " not in out


def test_no_delta_m_against_nothing(moevit, checkpoint, tmp_path) -> None:
    """A float model that finds no pixel's class has a mIoU of 0, to which nothing is relative."""
    import torch

    from moevit.model.checkpoint import load, store
    from moevit.model.training.data import samples

    model = load(checkpoint)
    truth = next(iter(samples("validation", 1, *model.config.image))).segmentation
    classes = model.config.task("segmentation").channels
    absent = min(set(range(classes)) - set(np.unique(truth).tolist()))
    bias = model.heads["segmentation"].linear.bias
    with torch.no_grad():
        bias.copy_(100.0 * (torch.arange(len(bias)) // (len(bias) // classes) == absent))
    store(model, tmp_path / "wrong.safetensors")
    given = options(tmp_path / "wrong.safetensors", "golden")
    status, out, err = moevit("eval", "--json", "--images", 1, *given)
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert found["tasks"]["segmentation"]["miou"] == 0 and found["delta_m"] is None


def test_eval_is_the_same_on_golden_and_interpreter(moevit, checkpoint) -> None:
    scores = []
    for backend in ("golden", "interpreter"):
        _, out, _ = moevit("eval", "--json", "--images", 2, *options(checkpoint, backend))
        scores.append(json.loads(out)["tasks"])
    assert scores[0] == scores[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "nope"], "--task: unknown task 'nope'; expected segmentation, depth"),
        (["--backend", "fpga"], "--backend: unknown backend 'fpga'; expected torch, onnx, golden"),
        (["--preset", "huge"], "Unknown preset 'huge'; expected one of micro"),
        (["--size", "giant"], "Size must be one of nano"),
        (["missing.png"], "missing.png: no such file; expected a PNG, JPEG"),
        (["cut.png"], "cut.png: damaged or cut short"),
        (["--model", "missing.safetensors"], "missing.safetensors: no such file"),
        (["--model", "cut.safetensors"], "Checkpoint cut.safetensors is not a whole safetensors"),
        (["--model", "short.safetensors"], "Checkpoint short.safetensors is not a whole"),
    ],
)
def test_bad_input(moevit, checkpoint, tmp_path, arguments, message) -> None:
    Image.new("RGB", (64, 64), "teal").save("whole.png")
    Path("cut.png").write_bytes(Path("whole.png").read_bytes()[:90])
    data = checkpoint.read_bytes()
    Path("cut.safetensors").write_bytes(data[: len(data) // 2])
    Path("short.safetensors").write_bytes(data[:50])
    before = set(tmp_path.iterdir())
    status, out, err = moevit("run", *options(checkpoint), *arguments)
    assert status == 2 and out == ""
    assert err.startswith("moevit: error: ") and message in err
    assert err.count("\n") == 1
    assert set(tmp_path.iterdir()) == before


def test_a_panel_that_cannot_be_written(moevit, checkpoint) -> None:
    Path("out").write_text("a file")
    status, _, err = moevit("run", "--task", "depth", *options(checkpoint))
    assert status == 2 and err.count("\n") == 1 and "out" in err
    assert Path("out").read_text() == "a file"


def test_a_compiled_program(moevit, checkpoint) -> None:
    """Alone it runs and is compared with nothing; beside its model every bit is."""
    compiled = ("compile", "--model", checkpoint, "--preset", "micro", "-o", "p.moevit")
    assert moevit(*compiled, "--task", "depth,edges")[0] == 0
    arguments = ("run", "--program", "p.moevit", "--backend", "interpreter", "--json")
    status, out, err = moevit(*arguments)
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert found["preset"] == "micro"
    assert [(r["task"], r["bit_exact"]) for r in found["results"]] == [
        ("depth", None),
        ("edges", None),
    ]
    alone = found["results"][0]["metrics"]["device"]
    assert alone and found["results"][0]["metrics"]["float"] is None
    status, out, _ = moevit(*arguments, "--model", checkpoint)
    found = json.loads(out)
    assert status == 0 and all(r["bit_exact"] for r in found["results"])
    assert found["results"][0]["metrics"]["device"] == alone
    # Of another network: the comparison says so.
    assert moevit("quantize", checkpoint, "--method", "minmax", "-o", "n.safetensors")[0] == 0
    status, _, err = moevit(*arguments, "--model", "n.safetensors")
    assert status == 1 and "are not bit exact" in err


def test_programs_that_cannot_run(moevit, checkpoint) -> None:
    assert moevit("compile", "--model", checkpoint, "--preset", "micro", "-o", "p.moevit")[0] == 0
    for arguments, message in (
        (("--backend", "golden"), "--backend: golden runs no programs; expected sim, interp"),
        (("--method", "mse"), "--method: cannot be given together with --program alone"),
        (("--task", "nope"), "unknown task 'nope'"),
        (("--program", str(checkpoint)), "format is None, expected 'moevit-program-2'"),
        (("--program", "none.moevit"), "none.moevit: no such file"),
    ):
        program = () if "--program" in arguments else ("--program", "p.moevit")
        status, out, err = moevit("run", *program, *arguments)
        assert (status, out) == (2, "") and message in err and err.count("\n") == 1


@pytest.mark.filterwarnings("error:Glyph")
def test_names_are_plain_text(moevit, checkpoint, tmp_path) -> None:
    """Of a folder; none is markup, a formula, an emoji or too long, and no two write one file."""
    folder = tmp_path / "in"
    folder.mkdir()
    stems = ["[bold]x", "$a_b$", "写真 (1)", ":smile:", "n" * 240, "-dash", "new\nline"]
    for stem in stems:
        Image.new("RGB", (64, 32), "teal").save(folder / f"{stem}.png")
    Image.new("RGB", (64, 32), "navy").save(folder / "-dash.jpg", quality=95)
    (folder / "._x.png").write_bytes(b"\0\5\x16\7")
    status, out, err = moevit("run", "--task", "depth", *options(checkpoint, "torch"), folder)
    assert (status, err) == (0, "")
    whole = "".join(out.split())
    for stem in ("[bold]x", "$a_b$", ":smile:", "n" * 240):
        assert f"{stem}.png:micro" in whole
    found = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert len(found) == len(stems) + 1 and all(name.endswith("-panel.png") for name in found)
    assert {"-dash-panel.png", "-dash-2-panel.png", "new-line-panel.png"} <= set(found)


def test_a_name_that_is_taken_is_found_before_any_work(moevit, checkpoint, tmp_path) -> None:
    (tmp_path / "out" / "scene-0-panel.png").mkdir(parents=True)
    status, _, err = moevit("run", "--task", "depth", *options(checkpoint, "torch"))
    assert status == 2
    assert "scene-0-panel.png: is a folder; expected the name of a file" in err


def test_a_note_is_one_line(moevit, checkpoint, tmp_path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.jpg", quality=95)
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:-2])
    arguments = ("--task", "depth", *options(checkpoint, "torch"), "a.jpg", "a.jpg")
    status, _, err = moevit("run", *arguments)
    assert status == 0
    assert (
        err.startswith("moevit: note: a.jpg: its last bytes are missing") and err.count("\n") == 1
    )

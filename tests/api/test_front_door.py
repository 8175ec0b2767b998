"""From a model to a device through `import moevit`, and every way to be refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.micro import MICRO

import moevit
from moevit.devices import open_pool
from moevit.model.scenes.render import scene
from moevit.models import Model
from moevit.quant.golden import Golden

HEIGHT, WIDTH = MICRO.image


def same(one: moevit.Program, other: moevit.Program) -> bool:
    return np.array_equal(one.linked.memory, other.linked.memory)


def an_image(number: int = 0) -> np.ndarray:
    return scene("test", number, HEIGHT, WIDTH).image


@pytest.mark.parametrize("backend", ["golden", "interpreter"])
def test_the_integers_of_a_device(
    network: moevit.Network, program: moevit.Program, backend: str
) -> None:
    exact = Golden(network.integers)
    with moevit.open_device(backend, program) as device:
        assert device.name == backend and device.counters is None
        result = device.run(an_image(), task="depth")
        every = device.run_all(an_image())
    assert result.planes is not None and result.planes.shape == (1, 4, 8)
    assert list(every) == list(network.tasks)
    for task, found in every.items():
        np.testing.assert_array_equal(found.output, exact.run(an_image(), task).output)
    np.testing.assert_array_equal(result.output, every["depth"].output)


@pytest.mark.parametrize("backend", ["golden", "interpreter", "torch"])
def test_a_frame_with_fewer_experts(
    network: moevit.Network, program: moevit.Program, backend: str
) -> None:
    """A dial is of its frame alone, and never asks for more than was compiled."""
    k = network.integers.dial.top_k
    dials: tuple[dict[str, float], ...] = ({"top_k": 1}, {"top_p": 0.3}, {"min_score": 0.6})
    with moevit.open_device(backend, program) as device:
        whole = device.run(an_image(), "depth").planes
        for asked in dials:
            found = device.run(an_image(), "depth", **asked)  # type: ignore[arg-type]
            assert (found.planes != whole).any(), asked
            if backend != "torch":
                own = network.integers.dialled(moevit.Dial.of(**asked))  # type: ignore[arg-type]
                np.testing.assert_array_equal(
                    found.output, Golden(own).run(an_image(), "depth").output
                )
        again = [device.run(an_image(), "depth", top_k=k), device.run(an_image(), "depth")]
        stream = device.run_stream([(an_image(), "depth", moevit.Dial.of(top_k=1))])
        for found in again:
            np.testing.assert_array_equal(found.planes, whole)
        assert (next(stream).planes != whole).any()
        with pytest.raises(moevit.UserError, match=f"compiled for: top_k {k + 1}, expected 1 to"):
            device.run(an_image(), "depth", top_k=k + 1)
        with pytest.raises(moevit.UserError, match=r"top_p must be above 0 to 1, not 1\.5"):
            device.run_all(an_image(), top_p=1.5)


@pytest.mark.slow
def test_the_accelerator(network: moevit.Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the shared cache: the simulator of `micro` is there or is used again."""
    monkeypatch.delenv("MOEVIT_CACHE")
    exact = Golden(network.integers)
    program = network.compile("micro", ["depth", "edges"], all_tasks=True)
    told: list[int] = []
    with moevit.open_device("sim", program) as device:
        alone = device.run(an_image(), "depth", progress=told.append)
        device.align()
        every = device.run_all(an_image())
    assert told and alone.counters is not None
    for found in (alone, *every.values()):
        np.testing.assert_array_equal(found.output, exact.run(an_image(), found.task).output)
    estimated = moevit.estimate(program, "depth").cycles
    assert estimated == pytest.approx(alone.counters.cycles, rel=0.3)


def test_the_float_model(model: moevit.Model, program: moevit.Program) -> None:
    with moevit.open_device("torch", program) as device:
        result = device.run(an_image(), "depth")
    expected = model.forward(an_image()[None], "depth")[0]
    np.testing.assert_allclose(result.planes, expected, rtol=1e-6)
    assert result.output is None


def test_a_file_as_an_image(program: moevit.Program, tmp_path: Path) -> None:
    Image.fromarray(an_image()).save(tmp_path / "a.png")
    with moevit.open_device("golden", program) as device:
        found = device.run(tmp_path / "a.png", "edges").output
        np.testing.assert_array_equal(found, device.run(an_image(), "edges").output)
        with pytest.raises(moevit.UserError, match=r"b\.png: no such file"):
            device.run(tmp_path / "b.png", "edges")


def test_files_of_all_three(
    model: moevit.Model, network: moevit.Network, program: moevit.Program, tmp_path: Path
) -> None:
    model.save(tmp_path / "m.safetensors")
    again = moevit.load(tmp_path / "m.safetensors")
    assert again.config == model.config and again.content == model.content
    network.save(tmp_path / "folder" / "n.safetensors")
    read = moevit.load_network(tmp_path / "folder" / "n.safetensors")
    assert read.config == model.config and read.tasks == network.tasks
    assert same(read.compile("micro"), program)
    program.save(tmp_path / "p.moevit")
    loaded = moevit.load_program(tmp_path / "p.moevit")
    assert same(loaded, program)
    assert loaded.model_config == model.config and loaded.config == program.config
    with moevit.open_device("interpreter", loaded) as device:
        device.run(an_image(), "depth")
    for backend, what in (("golden", "network"), ("torch", "model"), ("onnx", "model")):
        with pytest.raises(moevit.UserError, match=f"^{what}: "):
            moevit.open_device(backend, loaded)
    with moevit.open_device("golden", loaded, network=read) as device:
        device.run(an_image(), "depth")
    with pytest.raises(moevit.UserError, match=r"n\.safetensors: is quantised"):
        moevit.load(read.path)
    for load in (moevit.load_network, moevit.load_program):
        with pytest.raises(moevit.UserError, match=r"m\.safetensors"):
            load(tmp_path / "m.safetensors")


def test_what_is_calibrated_on(model: moevit.Model, tmp_path: Path) -> None:
    """Arrays, files and a folder of the same images give the same network."""
    images = [an_image(n) for n in range(3)]
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    expected = model.quantize(np.stack(images)).compile("micro")
    for calibration in (
        images,
        [tmp_path],
        tmp_path,
        [tmp_path / f"{number}.png" for number in range(3)],
        moevit.image_source(files=[tmp_path]),
    ):
        assert same(model.quantize(calibration).compile("micro"), expected)
    assert not same(model.quantize(3).compile("micro"), expected)
    with pytest.raises(moevit.UserError, match=r"must be \(N, 16, 32, 3\), not \(1, 8, 8, 3\)"):
        model.quantize(np.zeros((1, 8, 8, 3), np.uint8))
    with pytest.raises(moevit.UserError, match="uint8"):
        model.quantize(np.zeros((1, 16, 32, 3)))
    with pytest.raises(moevit.UserError, match="at least one image"):
        model.quantize(0)


def test_options_of_quantisation(model: moevit.Model, network: moevit.Network) -> None:
    small = model.quantize(4, experts="int4", method="minmax", clip="mse")
    assert len(small.compile("micro").to_bytes()) < len(network.compile("micro").to_bytes())
    assert small.integers.meta["quantisation"]["clip"] == "mse"
    for wrong, text in (
        ({"experts": "int3"}, "experts: unknown format 'int3'; expected int8, int4"),
        ({"method": "magic"}, "method: unknown method 'magic'; expected minmax"),
        ({"clipping": "mse"}, "clipping: unknown option; expected clip"),
        ({"migrate": (2.0,)}, "Migrate must be exponents"),
    ):
        with pytest.raises(moevit.UserError, match=text.replace("(", r"\(")):
            model.quantize(4, **wrong)


def test_a_network_is_quantised_once(model: moevit.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    model.quantize(5, report=lambda what, _share: told.append(what))
    assert told[0] == "loading the model" and told[-1] == ""
    monkeypatch.setattr("moevit.models.quantise_model", None)
    model.quantize(5)
    with pytest.raises(TypeError):
        model.quantize(5, seed=1)


def test_what_stops_work_gets_through(model: moevit.Model) -> None:
    class StopError(Exception):
        pass

    def stop(_what: str, _share: float) -> None:
        raise StopError

    with pytest.raises(StopError):
        model.quantize(6, report=stop)
    assert model.quantize(6).tasks == model.tasks


def test_tasks(network: moevit.Network) -> None:
    assert network.compile("micro", "depth, edges,depth").tasks == ("depth", "edges")
    assert network.compile("micro", ["edges"]).tasks == ("edges",)
    for wrong in ("nope", "", [], ["depth", "nope"]):
        with pytest.raises(moevit.UserError, match="tasks: unknown task"):
            network.compile("micro", wrong)
    with (
        moevit.open_device("golden", network.compile("micro", "edges")) as device,
    ):
        assert device.run(an_image()).task == "edges"
    with moevit.open_device("golden", network.compile("micro")) as device:
        with pytest.raises(moevit.UserError, match="task: name one of segmentation"):
            device.run(an_image())
        with pytest.raises(moevit.UserError, match="nope"):
            device.run(an_image(), "nope")
        with pytest.raises(moevit.UserError, match="Image must be"):
            device.run(np.zeros((8, 8, 3), np.uint8), "depth")


def test_programs_are_read_and_estimated(network: moevit.Network, program: moevit.Program) -> None:
    text = program.disassemble("depth")
    assert "task depth" in text and "HALT" in text and "task edges" not in text
    both = moevit.estimate(program, "depth,edges")
    alone = [moevit.estimate(program, task) for task in ("depth", "edges")]
    assert both.cycles == sum(found.cycles for found in alone)
    assert both.bytes_read == sum(found.bytes_read for found in alone)
    assert 0 < both.mac_utilisation < 1
    assert moevit.estimate(network, "depth,edges", preset="micro").to_dict() == both.to_dict()
    assert both.to_dict()["by_engine"]["array"] == both.by_engine["array"]


def test_a_program_is_proven(program: moevit.Program, tmp_path: Path) -> None:
    pytest.importorskip("moevit.compiler.check")
    assert program.verify().proven
    about = program.linked.task("depth")
    memory = program.linked.memory.copy()
    at = about.base + program.linked.header("depth").code_offset
    memory[at + 20] ^= 0x10
    broken = moevit.Program(replace(program.linked, memory=memory))
    with pytest.raises(moevit.MoevitError):
        broken.verify()


def test_a_device_of_another_accelerator(network: moevit.Network, program: moevit.Program) -> None:
    with moevit.open_device("interpreter", program) as device:
        device.load(network.compile("default"))
        with pytest.raises(moevit.DeviceError, match="HASH"):
            device.run(an_image(), "depth")
    with pytest.raises(moevit.UserError, match="Unknown backend 'fpga'"):
        moevit.open_device("fpga", program)


def test_devices_side_by_side(program: moevit.Program, network: moevit.Network) -> None:
    exact = Golden(network.integers)
    with open_pool("golden", program, 2) as pool:
        for task, found in zip(
            network.tasks, pool.map((an_image(), t) for t in network.tasks), strict=True
        ):
            np.testing.assert_array_equal(found.output, exact.run(an_image(), task).output)


def test_models_that_cannot_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "cut.safetensors").write_bytes(b"\0" * 20)
    for what, text in (
        ("small", "Size 'small' has no shipped model"),
        ("missing.safetensors", r"missing\.safetensors: no such file; expected a checkpoint"),
        (tmp_path, "is a folder; expected a checkpoint"),
    ):
        with pytest.raises(moevit.UserError, match=text):
            moevit.load(what)
    with pytest.raises(moevit.UserError, match=r"cut\.safetensors"):
        _ = moevit.load(tmp_path / "cut.safetensors").module
    with pytest.raises(ValueError, match="in memory or in a file"):
        Model()


def test_random_models() -> None:
    """The same seed gives the same weights, and torch's own random numbers go on as they were."""
    import torch

    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first = moevit.random_model(replace(MICRO, name="a"), seed=3)
    assert torch.equal(torch.rand(1), expected)
    assert moevit.random_model(replace(MICRO, name="a"), seed=3).content == first.content
    assert moevit.random_model(replace(MICRO, name="a"), seed=4).content != first.content
    with pytest.raises(moevit.UserError, match="Size must be one of"):
        moevit.random_model("giant")


def test_imports_name_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(moevit.UserError, match=r"none\.pth"):
        moevit.from_m3vit(tmp_path / "none.pth")
    with pytest.raises(moevit.MoevitError, match="nowhere"):
        moevit.from_edge_moe(tmp_path / "nowhere")
    with pytest.raises(moevit.UserError, match="'resnet50' is no model"):
        moevit.from_timm("resnet50")


def test_onnx(model: moevit.Model, network: moevit.Network, tmp_path: Path) -> None:
    assert model.export_onnx(tmp_path / "m.onnx", "depth")["opset"] > 0
    found = network.export_onnx(tmp_path / "q.onnx", ["depth"])
    assert found["tasks"] == ["depth"] and (tmp_path / "q.onnx").exists()


@pytest.mark.slow
def test_training_and_verilog(tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    with pytest.raises(moevit.UserError, match="steps"):
        moevit.train(out, MICRO, steps=0)
    options = {"steps": 1, "batch": 1, "scenes": 2, "validation": 1, "threads": 1}
    scores = moevit.train(out, replace(MICRO, tasks=MICRO.tasks[:1]), **options)
    assert list(scores) == ["segmentation"] == list(moevit.load(out).tasks)
    with pytest.raises(moevit.UserError, match="Unknown primitives 'lut'"):
        moevit.write_verilog(tmp_path / "rtl", "micro", primitives="lut")
    assert not (tmp_path / "rtl").exists()

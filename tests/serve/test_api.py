"""The JSON API, and the backend that is its client."""

from __future__ import annotations

import base64
import io
import threading

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient
from support.pictures import picture

from moevit.errors import DeviceError, UserError
from moevit.images import load_image
from moevit.quant.golden import Golden
from moevit.serve import app as application_module
from moevit.serve.app import application
from moevit.serve.client import RemoteDevice
from moevit.serve.service import Service
from moevit.serve.station import BusyError, Job, Station, StoppedError
from moevit.serve.uploads import ARRAY
from moevit.workload import Workload


def array(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, pixels)
    return file.getvalue()


def numbers(values: dict) -> np.ndarray:
    data = np.frombuffer(base64.b64decode(values["data"]), np.dtype(values["dtype"]))
    return data.reshape(values["shape"])


def test_what_is_served(client: TestClient, workload: Workload) -> None:
    about = client.get("/api/v1/about").json()
    assert [task["name"] for task in about["tasks"]] == list(workload.program.tasks)
    assert about["grid"] == [2, 4] and about["backends"] == ["golden", "interpreter"]
    assert all(task["board"]["how"] == "estimated" for task in about["tasks"])
    page = client.get("/")
    assert (
        "<title>moevit" in page.text
        and "default-src 'self'" in page.headers["content-security-policy"]
    )
    assert client.get("/static/app.js").status_code == 200
    paths = client.get("/api/v1/openapi.json").json()["paths"]
    assert set(paths) == {"/api/v1/about", "/api/v1/scene", "/api/v1/run"}


@pytest.mark.parametrize("backend", ["golden", "interpreter"])
def test_a_picture(client: TestClient, workload: Workload, tmp_path, backend: str) -> None:
    """Integers, experts and pixels are those of the library."""
    path = tmp_path / "a.png"
    path.write_bytes(picture())
    model = workload.model_config
    pixels = load_image(path, height=16, width=32, config=model)
    query = {"backend": backend, "values": True, "experts": True}
    found = client.post("/api/v1/run", params=query, content=path.read_bytes()).json()
    assert [answer["task"] for answer in found["tasks"]] == list(workload.program.tasks)
    golden = Golden(workload.network)
    for answer in found["tasks"]:
        expected = golden.run(pixels, answer["task"])
        assert (numbers(answer["values"]) == expected.output).all()
        assert answer["bit_exact"] is (None if backend == "golden" else True)
        (layer,) = answer["experts"]
        assert layer["indices"] == expected.routing[0].indices[1:].tolist()
        assert layer["queues"] == list(expected.routing[0].counts)
        shown = Image.open(io.BytesIO(base64.b64decode(answer["picture"].split(",")[1])))
        assert shown.size == (32, 16)
    shown = Image.open(io.BytesIO(base64.b64decode(found["input"].split(",")[1])))
    assert (np.asarray(shown) == pixels).all()


def test_a_scene_is_a_picture(client: TestClient) -> None:
    scene = client.get("/api/v1/scene", params={"number": 3})
    assert scene.headers["content-type"] == "image/png"
    query = {"task": ["depth"], "pictures": False}
    found = client.post("/api/v1/run", params=query, content=scene.content).json()
    assert [answer["task"] for answer in found["tasks"]] == ["depth"]
    assert found["tasks"][0]["picture"] is None


@pytest.mark.parametrize(
    ("body", "query", "media", "said"),
    [
        (b"", {}, "", "upload: is empty; expected an image"),
        (b"no picture at all", {}, "", "upload: not a PNG, JPEG"),
        (picture(form="jpeg")[:200], {}, "", "upload: damaged or cut short"),
        (picture(), {"task": "poetry"}, "", "task: must be one of segmentation"),
        (picture(), {"backend": "sim"}, "", "backend: must be one of golden, interpreter"),
        (picture(), {"pictures": "perhaps"}, "", "pictures: Input should be a valid boolean"),
        (picture(), {}, ARRAY, "upload: is no array of numpy.save"),
        (array(np.zeros((3, 3, 3), np.uint8)), {}, ARRAY, "expected (16, 32, 3) uint8"),
        (array(np.zeros((16, 32, 3))), {}, ARRAY, "float64, expected (16, 32, 3) uint8"),
    ],
)
def test_what_is_wrong_is_said(client: TestClient, body, query, media, said) -> None:
    found = client.post("/api/v1/run", params=query, content=body, headers={"Content-Type": media})
    assert found.status_code == 400
    assert said in found.json()["error"] and "\n" not in found.json()["error"]
    assert "/tmp" not in found.json()["error"]


def test_an_upload_has_a_bound(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(application_module, "LIMIT", 1000)
    found = client.post("/api/v1/run", content=bytes(1001))
    assert found.status_code == 413 and "more than" in found.json()["error"]


@pytest.fixture
def blocked(workload: Workload, monkeypatch: pytest.MonkeyPatch):
    """A station that works on its first image until it is told to go on."""
    go, begun = threading.Event(), threading.Event()
    answers = Station._answers

    def slowly(self: Station, device: object, job: Job) -> dict:
        begun.set()
        while not go.wait(0.01):
            job.tell("waiting", 0.0)
        return answers(self, device, job)

    monkeypatch.setattr(Station, "_answers", slowly)
    station = Station("golden", workload, {}, waiting=1)
    pixels = np.zeros((16, 32, 3), np.uint8)
    jobs = [station.submit(Job(pixels, ["depth"]))]
    begun.wait()
    jobs.append(station.submit(Job(pixels, ["depth"])))
    yield station, jobs, go
    go.set()
    station.close()


def test_a_full_queue_says_so(blocked) -> None:
    station, jobs, go = blocked
    with pytest.raises(BusyError, match="1 images wait for golden; try again later"):
        station.submit(Job(jobs[0].pixels, ["depth"]))
    jobs[1].cancel()  # gives its place up when its turn comes
    go.set()
    assert set(jobs[0].future.result()) == {"depth"}
    assert jobs[1].future.cancelled()


def test_closing_gives_work_up(blocked) -> None:
    station, jobs, _ = blocked
    station.close()
    with pytest.raises(StoppedError):
        jobs[0].future.result()
    assert jobs[1].future.cancelled()
    with pytest.raises(StoppedError, match="the service ends"):
        station.submit(Job(jobs[0].pixels, ["depth"]))


def test_busy_is_503(service: Service, client: TestClient, monkeypatch) -> None:
    def full(*_: object) -> Job:
        raise BusyError("8 images wait for golden; try again later")

    monkeypatch.setattr(Service, "submit", full)
    found = client.post("/api/v1/run", content=picture())
    assert found.status_code == 503 and found.headers["retry-after"] == "1"
    assert "try again" in found.json()["error"]


# The backend `remote` ----------------------------------------------------------------------------
def remote(service: Service, **options: str) -> RemoteDevice:
    transport = TestClient(application(service), base_url="http://127.0.0.1")._transport
    return RemoteDevice("http://127.0.0.1", transport=transport, **options)


def test_remote_gives_the_same_integers(service: Service, workload: Workload) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (16, 32, 3), np.uint8)
    golden = Golden(workload.network)
    with remote(service, backend="interpreter") as device:
        device.load(workload.program.linked)
        found = device.run_all(pixels)
        for task in workload.program.tasks:
            assert (found[task].output == golden.run(pixels, task).output).all()
            assert found[task].planes is not None and found[task].counters is None
        with pytest.raises(ValueError, match=r"Image must be \(16, 32, 3\)"):
            device.run(pixels[:8], "depth")


def test_remote_has_another_program(service: Service, workload: Workload) -> None:
    with remote(service) as device:
        with pytest.raises(ValueError, match="no program; load one first"):
            device.run(np.zeros((16, 32, 3), np.uint8), "depth")
        one = workload.quantised_network.compile("micro", ["depth"])
        with pytest.raises(DeviceError, match="serves another program"):
            device.load(one.linked)
        other = workload.quantised_network.compile("default", ["depth"])
        with pytest.raises(DeviceError, match=r"serves preset micro .* not default"):
            device.load(other.linked)
    with pytest.raises(UserError, match="serves golden, interpreter, not sim"):
        remote(service, backend="sim")


def test_remote_is_not_there() -> None:
    with pytest.raises(OSError, match=r"http://127\.0\.0\.1:9: does not answer"):
        RemoteDevice("http://127.0.0.1:9")

"""The live socket."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from starlette.testclient import TestClient
from support.pictures import picture

from moevit.serve.station import Job, Station


def test_a_viewer(client: TestClient) -> None:
    with client.websocket_connect("/api/v1/live") as socket:
        assert socket.receive_json()["about"]["grid"] == [2, 4]
        socket.send_bytes(picture())
        assert "tasks: none is chosen" in socket.receive_json()["error"]
        socket.send_json({"tasks": ["normals", "depth"], "experts": True})
        socket.send_bytes(picture())
        frame = socket.receive_json()["frame"]
        assert [answer["task"] for answer in frame["tasks"]] == ["normals", "depth"]
        assert frame["backend"] == "golden" and frame["tasks"][0]["experts"]
        socket.send_json({"tasks": ["edges"], "backend": "interpreter"})
        socket.send_bytes(picture())
        frame = socket.receive_json()["frame"]
        assert frame["backend"] == "interpreter" and frame["tasks"][0]["bit_exact"] is True


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("no json", "is no JSON object"),
        ("[1]", "is no JSON object"),
        ('{"tasks": ["poetry"]}', "task: must be one of"),
        ('{"tasks": ["depth"], "backend": "board"}', "backend: must be one of"),
    ],
)
def test_what_is_wrong_is_said_and_the_viewer_stays(client, message: str, said: str) -> None:
    with client.websocket_connect("/api/v1/live") as socket:
        socket.receive_json()
        socket.send_text(message)
        if message.startswith("{"):
            socket.send_bytes(picture())
        assert said in socket.receive_json()["error"]
        socket.send_json({"tasks": ["depth"]})
        socket.send_bytes(b"nothing to see")
        assert "upload: not a PNG" in socket.receive_json()["error"]
        socket.send_bytes(picture())
        assert "frame" in socket.receive_json()


def test_a_fast_viewer_loses_images(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one image is worked on, of the next ones the last is kept."""
    go, begun, seen = threading.Event(), threading.Event(), []
    answers = Station._answers

    def slowly(self: Station, device: object, job: Job) -> dict:
        seen.append(np.array(job.pixels))
        begun.set()
        go.wait()
        return answers(self, device, job)

    monkeypatch.setattr(Station, "_answers", slowly)
    with client.websocket_connect("/api/v1/live") as socket:
        socket.receive_json()
        socket.send_json({"tasks": ["depth"]})
        socket.send_bytes(picture((32, 16)))
        begun.wait()
        for width in (33, 34, 60):
            socket.send_bytes(picture((width, 16)))
        socket.send_text("?")  # is answered when all of the images have come
        assert "error" in socket.receive_json()
        go.set()
        frames = [socket.receive_json()["frame"] for _ in range(2)]
        socket.send_text("?")
        assert "error" in socket.receive_json()
    assert len(frames) == len(seen) == 2
    assert not (seen[0] == seen[1]).all()


def test_who_goes_stops_the_work(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, ended = threading.Event(), threading.Event()

    def for_ever(self: Station, device: object, job: Job) -> dict:
        begun.set()
        try:
            while True:
                job.tell("working", 0.5)
        finally:
            ended.set()

    monkeypatch.setattr(Station, "_answers", for_ever)
    with client.websocket_connect("/api/v1/live") as socket:
        socket.receive_json()
        socket.send_json({"tasks": ["depth"]})
        socket.send_bytes(picture())
        begun.wait()
        assert socket.receive_json()["progress"] == {"what": "working", "share": 0.5}
    ended.wait()

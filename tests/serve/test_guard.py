"""Other sites and strangers are kept out."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from moevit.serve.app import application
from moevit.serve.guard import Guard
from moevit.serve.service import Service

OURS = "127.0.0.1:8080"


def guarded(service: Service, *, hosts: set[str] | None = None, token: str | None = None):
    app = Guard(application(service), hosts={OURS} if hosts is None else hosts, token=token)
    return TestClient(app, base_url=f"http://{OURS}")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": f"http://{OURS}"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:8081"}, 403),  # another server of this machine
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1:8081"}, 403),
        ({"Host": "evil.example", "Origin": "http://evil.example"}, 403),  # DNS rebinding
    ],
)
def test_hosts_and_origins(service: Service, headers: dict[str, str], status: int) -> None:
    client = guarded(service)
    for path in ("/", "/api/v1/about"):
        found = client.get(path, headers=headers)
        assert found.status_code == status
        assert status == 200 or "error" in found.json()
    if status != 200:
        with pytest.raises(WebSocketDisconnect) as refused:
            with client.websocket_connect("/api/v1/live", headers={"Host": OURS, **headers}):
                pass
        assert refused.value.code == 4403


@pytest.mark.parametrize(("given", "status"), [("", 401), ("Bearer b", 401), ("Bearer a", 200)])
def test_a_token(service: Service, given: str, status: int) -> None:
    client = guarded(service, token="a")
    headers = {"Authorization": given} if given else {}
    assert client.get("/").status_code == 200  # the page itself tells nothing
    assert client.get("/api/v1/about", headers=headers).status_code == status
    assert client.get("/api/v1/openapi.json", headers=headers).status_code == status


def test_a_token_of_a_socket(service: Service) -> None:
    client = guarded(service, token="a b")
    ours = {"Host": OURS}
    with client.websocket_connect("/api/v1/live?token=a%20b", headers=ours) as socket:
        assert "about" in socket.receive_json()
    for query in ("", "?token=", "?token=b"):
        with pytest.raises(WebSocketDisconnect) as refused:
            with client.websocket_connect(f"/api/v1/live{query}", headers=ours):
                pass
        assert refused.value.code == 4401


def test_all_hosts_need_a_token(service: Service) -> None:
    with pytest.raises(ValueError, match="Any host needs a token"):
        Guard(application(service), hosts=None, token=None)

"""The micro model behind a service, in a cache of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient
from support.micro import MICRO

import moevit
from moevit.serve.app import application
from moevit.serve.service import Service
from moevit.workload import Workload


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOEVIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def workload(cache: None) -> Workload:
    config = moevit.configuration("micro")
    return Workload(moevit.random_model(MICRO).quantize(4), config)


@pytest.fixture(scope="session")
def service(workload: Workload) -> Iterator[Service]:
    with Service(workload, ["golden", "interpreter"]) as made:
        yield made


@pytest.fixture
def client(service: Service) -> Iterator[TestClient]:
    with TestClient(application(service), base_url="http://127.0.0.1:8080") as made:
        yield made

"""The micro model through the front door, in a cache of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.micro import MICRO

import moevit


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOEVIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def model() -> moevit.Model:
    return moevit.random_model(MICRO)


@pytest.fixture(scope="session")
def network(model: moevit.Model, cache: None) -> moevit.Network:
    return model.quantize(4)


@pytest.fixture(scope="session")
def program(network: moevit.Network) -> moevit.Program:
    return network.compile("micro")

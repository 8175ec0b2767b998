"""The page in a real browser, with a camera that is none.

It wants Playwright and the system's Chromium (`pip install playwright`, `apt-get install chromium`)
and is skipped without them; nothing else of moevit needs either.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import uvicorn
from PIL import Image
from support.pictures import picture

from moevit.serve.app import application
from moevit.serve.guard import Guard
from moevit.serve.service import Service

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ("--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs the system's Chromium"),
]


@pytest.fixture(scope="module")
def address(service: Service) -> Iterator[str]:
    import socket

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        host = "{}:{}".format(*listening.getsockname())
        settings = uvicorn.Config(
            Guard(application(service), hosts={host}, token=None), log_level="warning"
        )
        server = uvicorn.Server(settings)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield f"http://{host}/"
        server.should_exit = True
        thread.join()


@pytest.fixture
def page(address: str) -> Iterator:
    with playwright.sync_playwright() as running, contextlib.ExitStack() as stack:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        stack.callback(browser.close)
        page = browser.new_page(viewport={"width": 1300, "height": 900})
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(address)
        page.wait_for_selector("article[data-task=depth] img[src]")
        yield page
        assert not said


def test_a_picture_and_a_switch_of_tasks(page, tmp_path) -> None:
    shown = page.locator("article")
    assert shown.count() == 5
    (tmp_path / "a.png").write_bytes(picture())
    before = page.locator("article[data-task=depth] img").get_attribute("src")
    page.set_input_files("#file", tmp_path / "a.png")
    prediction = page.locator("article[data-task=depth] img")
    playwright.expect(prediction).not_to_have_attribute("src", before)
    page.uncheck("#tasks input[value=depth]")
    page.wait_for_selector("article[data-task=depth]", state="detached")
    assert shown.count() == 4
    page.select_option("#backend", "interpreter")
    playwright.expect(page.locator("article h2 span")).to_have_text(["bit exact"] * 4)


def test_the_camera(page) -> None:
    page.click("#camera")
    playwright.expect(page.locator("#rate")).to_contain_text("images/s")
    page.click("#camera")
    assert page.get_attribute("#camera", "aria-pressed") == "false"


def test_what_is_no_picture(page, tmp_path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    page.set_input_files("#file", tmp_path / "a.png")
    playwright.expect(page.locator("#message")).to_contain_text("upload: not a PNG")


@pytest.mark.parametrize("width", [390, 1300])
def test_how_it_looks(page, tmp_path, width: int) -> None:
    """Nothing is wider than the window, and predictions and experts are there to be seen."""
    page.set_viewport_size({"width": width, "height": 900})
    page.screenshot(path=tmp_path / "page.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    image = np.asarray(Image.open(tmp_path / "page.png").convert("RGB"), np.float64)
    assert image.shape[1] == width and image.std() > 20  # mostly paper, some colour
    box = page.locator("#map").bounding_box()
    at = image[int(box["y"]) :, int(box["x"]) :][: int(box["height"]), : int(box["width"])]
    assert at.std() > 20

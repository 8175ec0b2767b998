"""The backend ``remote``: a device of another machine's `moevit serve`.

MOEVIT_URL names the server, MOEVIT_TOKEN its token. The server runs its own program, so what is
loaded here must be the same, to the byte.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
from typing import Any, Self

import httpx2 as httpx
import numpy as np

from moevit.compiler.program import Program
from moevit.hw.registers import Counter, Error
from moevit.quant.dial import AS_COMPILED, Dial
from moevit.quant.errors import UserError
from moevit.sim.backends import Sources
from moevit.sim.counters import Counters
from moevit.sim.device import Progress, Result, planes
from moevit.sim.errors import DeviceError

from .uploads import ARRAY

__all__ = ["BACKEND", "TOKEN", "URL", "RemoteDevice", "open_remote"]

URL, TOKEN, BACKEND = "MOEVIT_URL", "MOEVIT_TOKEN", "MOEVIT_REMOTE_BACKEND"
"""Environment variables; the last one names the server's backend, its first if not set."""

_SECONDS = 600.0  # for a frame that is simulated there
_API = "/api/v1/"


class RemoteDevice:
    """A server's device.

    Raises
    ------
    OSError
        Where the server cannot be reached, or refuses.
    """

    name = "remote"

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        backend: str = "",
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._url, self._backend = url.rstrip("/"), backend
        try:
            self._client = httpx.Client(
                base_url=self._url, headers=headers, timeout=_SECONDS, transport=transport
            )
        except (httpx.InvalidURL, ValueError) as error:
            raise UserError(f"--url: {url!r} is no address of a server: {error}") from None
        self._program: Program | None = None
        self._counters: Counters | None = None
        try:
            self.about: dict[str, Any] = self._ask("GET", "about")
            if backend and backend not in self.about["backends"]:
                known = ", ".join(self.about["backends"])
                raise UserError(f"{self._url}: serves {known}, not {backend}")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection."""
        self._client.close()

    @property
    def counters(self) -> Counters | None:
        """Of the last frame, where the server's device counts."""
        return self._counters

    def load(self, program: Program) -> None:
        """Checks that the server's program is ``program``; ``DeviceError`` if not."""
        about = self.about
        if about["config_hash"] != f"{program.config.hash:016x}":
            raise DeviceError(
                Error.HASH,
                f"{self._url} serves preset {about['preset']} ({about['config_hash']}), not "
                f"{program.config.name} ({program.config.hash:016x})",
            )
        if about["program"] != hashlib.sha256(program.to_bytes()).hexdigest():
            raise DeviceError(
                Error.HASH, f"{self._url} serves another program, of {about['model']}"
            )
        self._program = program

    def run(
        self,
        image: Any,
        task: str,
        *,
        dial: Dial = AS_COMPILED,
        progress: Progress | None = None,
    ) -> Result:
        """One image; see :class:`~moevit.sim.device.Device`. Nothing is told of its progress, and
        the API has no dial: ``ValueError`` for one."""
        if dial != AS_COMPILED:
            raise ValueError(f"{self._url}: a server runs its program as compiled, without a dial")
        program = self._program
        if program is None:
            raise ValueError("The device has no program; load one first")
        program.task(task)
        program.image.pack(image)  # for its checks
        file = io.BytesIO()
        np.save(file, np.asarray(image, np.uint8))
        query = {"task": task, "pictures": False, "values": True}
        if self._backend:
            query["backend"] = self._backend
        frame = self._ask(
            "POST", "run", params=query, content=file.getvalue(), headers={"Content-Type": ARRAY}
        )
        (found,) = frame["tasks"]
        self._counters = _counters(found["counters"], found["seconds"])
        values = found["values"]
        if values is None:
            raise DeviceError(
                Error.NONE, f"{self._url}: backend {frame['backend']} has no integers"
            )
        data = np.frombuffer(
            base64.b64decode(values["data"]), np.dtype(values["dtype"]).newbyteorder("<")
        )
        output = data.astype(values["dtype"]).reshape(values["shape"])
        return Result(
            task=task,
            output=output,
            planes=planes(program, task, output),
            counters=self._counters,
        )

    def run_all(
        self, image: Any, *, dial: Dial = AS_COMPILED, progress: Progress | None = None
    ) -> dict[str, Result]:
        """One image under all tasks, one after the other."""
        program = self._program
        if program is None:
            raise ValueError("The device has no program; load one first")
        tasks = program.tasks
        return {task: self.run(image, task, dial=dial, progress=progress) for task in tasks}

    def _ask(self, method: str, what: str, **about: Any) -> Any:
        try:
            answer = self._client.request(method, _API + what, **about)
        except httpx.HTTPError as error:
            raise OSError(f"{self._url}: does not answer: {error}") from None
        try:
            found = answer.json()
        except ValueError:
            raise OSError(f"{self._url}: is no moevit server (no JSON)") from None
        if answer.is_success:
            return found
        text = f"{self._url}: {found.get('error', answer.status_code)}"
        if answer.status_code == 400:
            raise ValueError(text)
        if answer.status_code == 502:
            raise DeviceError(Error.NONE, text)
        raise OSError(text)


def _counters(found: dict[str, Any] | None, seconds: float) -> Counters | None:
    if found is None:
        return None
    return Counters(
        values={counter: found[counter.name.lower()] for counter in Counter},
        expert_tokens=tuple(found["expert_tokens"]),
        seconds=seconds,
    )


def open_remote(_sources: Sources) -> RemoteDevice:
    """The server that MOEVIT_URL names; ``ValueError`` where it names none."""
    url = os.environ.get(URL)
    if not url:
        raise ValueError("The backend remote needs a server: give --url, or set MOEVIT_URL")
    return RemoteDevice(url, token=os.environ.get(TOKEN), backend=os.environ.get(BACKEND) or "")

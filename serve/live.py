"""The live socket: images in, answers out, as fast as the slower of viewer and device.

A viewer sends text ``{"tasks": [...], "backend": "golden", "experts": true}`` for what it wants,
which holds from the next image on, and binary messages that are images. The answers are text:
``{"about": ...}`` once, then ``{"frame": ...}`` (:class:`.schema.Frame`), ``{"progress": ...}`` of
frames that take long, and ``{"error": ...}``. One image of a viewer is worked on at a time; of
those that come meanwhile the last is kept, so a viewer that is slow loses images and holds up
nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import Any

from fastapi import WebSocket, WebSocketDisconnect

from moevit.quant.errors import MoevitError, UserError

from .schema import Frame
from .service import Service, data_url
from .station import Job
from .uploads import LIMIT, pixels

__all__ = ["Viewer"]


class Viewer:
    """One open socket."""

    def __init__(self, service: Service, socket: WebSocket) -> None:
        self._service, self._socket = service, socket
        self._tasks: list[str] = []
        self._backend = ""
        self._experts = False
        self._latest: bytes | None = None
        self._news = asyncio.Event()
        self._job: Job | None = None
        self._gone = False

    async def serve(self) -> None:
        """Until the viewer goes."""
        await self._socket.accept()
        await self._say({"about": self._service.about.model_dump()})
        worker = asyncio.create_task(self._work())
        try:
            while True:
                message = await self._socket.receive()
                if message["type"] == "websocket.disconnect":
                    break
                await self._take(message)
        except WebSocketDisconnect:
            pass
        finally:
            self._gone = True
            if self._job is not None:
                self._job.cancel()
            worker.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await worker

    async def _take(self, message: Any) -> None:
        data = message.get("bytes")
        if data is not None:
            if len(data) > LIMIT:
                await self._say({"error": f"upload: more than {LIMIT >> 20} MiB"})
                return
            self._latest = data
            self._news.set()
            return
        try:
            wanted = json.loads(message.get("text") or "")
            self._tasks = [str(name) for name in wanted.get("tasks", ())]
            self._backend = str(wanted.get("backend", ""))
            self._experts = bool(wanted.get("experts", False))
        except (ValueError, AttributeError, TypeError):
            await self._say({"error": "message: is no JSON object with tasks, backend, experts"})

    async def _work(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            body, self._latest = self._latest, None
            if body is None:
                continue
            try:
                await self._say({"frame": (await self._frame(body)).model_dump()})
            except (asyncio.CancelledError, WebSocketDisconnect):
                raise
            except (MoevitError, ValueError, OSError) as error:
                await self._say({"error": " ".join(str(error).split())})

    async def _frame(self, body: bytes) -> Frame:
        service, loop = self._service, asyncio.get_running_loop()
        begun = time.perf_counter()
        image = await asyncio.to_thread(pixels, body, "", service.workload.model_config)
        told = 0.0

        def progress(what: str, share: float) -> None:  # from the device's thread
            nonlocal told
            now = time.monotonic()
            if now - told > 0.25 and not self._gone:
                told = now
                text = {"progress": {"what": what, "share": share}}
                asyncio.run_coroutine_threadsafe(self._say(text), loop)

        backend, experts = self._backend or service.backends[0], self._experts
        if not self._tasks:
            raise UserError("tasks: none is chosen")
        self._job = service.submit(image, self._tasks, backend, progress)
        try:
            found = await asyncio.wrap_future(self._job.future)
        except asyncio.CancelledError:
            self._job.cancel()
            raise
        answers = await asyncio.to_thread(
            lambda: [
                service.answer(one, pictures=True, experts=experts, values=False)
                for one in found.values()
            ]
        )
        return Frame(
            backend=backend,
            seconds=time.perf_counter() - begun,
            tasks=answers,
            input=data_url(image),
        )

    async def _say(self, message: dict[str, Any]) -> None:
        if not self._gone:
            await self._socket.send_text(json.dumps(message, separators=(",", ":")))

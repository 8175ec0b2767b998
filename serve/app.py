"""The application: the page, the JSON API and the live socket."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query, Request, Response, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles

from moevit.errors import DeviceError
from moevit.model.scenes.render import scene as render
from moevit.quant.errors import MoevitError, UserError
from moevit.version import __version__

from .live import Viewer
from .schema import About, Frame, Problem
from .service import Service, data_url
from .station import BusyError, Job, StoppedError
from .uploads import ARRAY, LIMIT, pixels, png

__all__ = ["application"]

_STATIC = Path(__file__).parent / "static"
_SCENES = 500
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; media-src blob:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": text}
    for status, text in (
        (400, "What was sent is wrong"),
        (413, "The upload is too large"),
        (502, "The device gave up"),
        (503, "Too many wait; come again"),
    )
}
_PNG: dict[int | str, dict[str, Any]] = {200: {"content": {"image/png": {}}}}


def application(service: Service) -> FastAPI:
    """The application of one service, which whoever made it closes."""
    app = FastAPI(
        title="moevit serve",
        version=__version__,
        description="One multi-task model and its devices.",
        docs_url=None,  # their pages load scripts from elsewhere; the document itself is here
        redoc_url=None,
        openapi_url="/api/v1/openapi.json",
    )
    _errors(app)

    @app.middleware("http")
    async def headers(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call(request)
        response.headers.update(_HEADERS)
        return response

    @app.get("/api/v1/about")
    def about() -> About:
        """The model, its tasks, the accelerator, and the backends to choose from."""
        return service.about

    @app.get("/api/v1/scene", response_class=Response, responses=_PNG)
    def scene(number: Annotated[int, Query(ge=0, lt=_SCENES)] = 0) -> Response:
        """A rendered scene that no model was trained on, as PNG of the model's size."""
        height, width = service.workload.model_config.image
        return Response(png(render("test", number, height, width).image), media_type="image/png")

    @app.post("/api/v1/run", responses=_PROBLEMS, openapi_extra=_body())
    async def run(
        request: Request,
        task: Annotated[list[str] | None, Query(description="All of them by default.")] = None,
        backend: Annotated[str, Query(description="The first one served by default.")] = "",
        pictures: Annotated[bool, Query(description="Predictions to look at.")] = True,
        experts: Annotated[bool, Query(description="Experts of each patch.")] = False,
        values: Annotated[bool, Query(description="Integers as they lie in memory.")] = False,
    ) -> Frame:
        """One image under some tasks: the body is a picture of any size, or an array."""
        begun = time.perf_counter()
        body = await _bounded(request)
        media = request.headers.get("content-type", "")
        image = await asyncio.to_thread(pixels, body, media, service.workload.model_config)
        job = service.submit(image, task or (), backend)
        found = await _result(request, job)
        answers = await asyncio.to_thread(
            lambda: [
                service.answer(found[name], pictures=pictures, experts=experts, values=values)
                for name in found
            ]
        )
        return Frame(
            backend=backend or service.backends[0],
            seconds=time.perf_counter() - begun,
            tasks=answers,
            input=data_url(image) if pictures else None,
        )

    @app.websocket("/api/v1/live")
    async def live(socket: WebSocket) -> None:
        await Viewer(service, socket).serve()

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(_STATIC / "index.html")

    app.mount("/static", StaticFiles(directory=_STATIC))
    return app


def _body() -> dict[str, Any]:
    image = {"schema": {"type": "string", "format": "binary"}}
    return {"requestBody": {"required": True, "content": {"image/*": image, ARRAY: image}}}


async def _bounded(request: Request) -> bytes:
    """The body, as far as it is not too large."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > LIMIT:
            raise HTTPException(413, f"upload: more than {LIMIT >> 20} MiB")
        parts.append(part)
    return b"".join(parts)


async def _result(request: Request, job: Job) -> dict[str, Any]:
    """The job's answers; it is given up when the client goes."""

    async def gone() -> None:
        while not await request.is_disconnected():
            await asyncio.sleep(0.5)

    work: asyncio.Future[Any] = asyncio.wrap_future(job.future)
    watch: asyncio.Future[Any] = asyncio.ensure_future(gone())
    try:
        await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise StoppedError("the client has gone")
        if work.cancelled():
            raise StoppedError("the service ends")
        answers: dict[str, Any] = await work
        return answers
    finally:
        watch.cancel()
        if not work.done():
            job.cancel()


def _errors(app: FastAPI) -> None:
    """Every failure as one line of JSON."""
    kinds: Sequence[tuple[type[Exception], int]] = (
        (UserError, 400),
        (BusyError, 503),
        (StoppedError, 503),
        (DeviceError, 502),
        (MoevitError, 500),
    )

    def say(status: int) -> Callable[[Request, Exception], Awaitable[Response]]:
        async def handler(_request: Request, error: Exception) -> Response:
            headers = {"Retry-After": "1"} if status == 503 else None
            return JSONResponse({"error": " ".join(str(error).split())}, status, headers)

        return handler

    for kind, status in kinds:
        app.add_exception_handler(kind, say(status))

    @app.exception_handler(HTTPException)
    async def refused(_request: Request, error: HTTPException) -> Response:
        return JSONResponse({"error": str(error.detail)}, error.status_code)

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"][1:])
        return JSONResponse({"error": f"{name}: {first['msg']}"}, 400)

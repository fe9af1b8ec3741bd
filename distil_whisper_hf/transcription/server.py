"""An HTTP server with OpenAI's schema for audio: requests of all languages share batches."""

from __future__ import annotations

import asyncio
import functools
import hmac
import io
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import soundfile
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..modeling_distil_whisper import DistilWhisperForConditionalGeneration
from .engine import BusyError, ClosedError, Engine, Job
from .opening import expert_names
from .recordings import Recording, TooLongError, at_most, read_blocks
from .results import Segment, Transcription
from .server_metrics import Metrics
from .server_requests import RequestError, model_names, read_request
from .server_responses import answer, delta, done, failed

logger = logging.getLogger(__name__)
# Beside the file, what a form may take, in bytes.
_FORM_BYTES = 1 << 16
_LOOK_AGAIN = 0.25
_API, _ADMIN = "/v1", "/admin"


@dataclass(frozen=True)
class ServerSettings:
    """What a server allows.

    Attributes:
        api_key: that clients must send; None: none is asked for.
        admin_key: that changes of experts need; None: there are none.
        most_bytes: of an upload.
        most_seconds: of audio in it.
        timeout: in s, from a request to its end.
        stop_seconds: in s, for what runs to be finished when the server stops.
    """

    api_key: str | None = field(default=None, repr=False)
    admin_key: str | None = field(default=None, repr=False)
    most_bytes: int = 25 << 20
    most_seconds: float = 3600.0
    timeout: float = 600.0
    stop_seconds: float = 60.0


class BodyLimit:
    """Refuses a body that is too large before it is read to its end."""

    def __init__(self, app: ASGIApp, most_bytes: int) -> None:
        self.app, self.most_bytes = app, most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        sizes = [value for name, value in scope["headers"] if name == b"content-length"]
        announced = int(sizes[0]) if sizes and sizes[0].isdigit() else 0
        if announced > self.most_bytes:
            refusal = JSONResponse(_too_large(self.most_bytes).body, status_code=413)
            await refusal(scope, receive, send)
            return
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self.most_bytes:
                raise _too_large(self.most_bytes)
            return message

        await self.app(scope, counted, send)


class Server:
    """The answers; `app` is what an ASGI server runs.

    Args:
        model, processor, batch_size, most_waiting: as for `Engine`.
        settings: what is allowed.
    """

    def __init__(
        self,
        model: DistilWhisperForConditionalGeneration,
        processor: Any,
        settings: ServerSettings | None = None,
        *,
        batch_size: int = 8,
        most_waiting: int = 64,
    ) -> None:
        self.settings = settings or ServerSettings()
        self.model = model
        self.metrics = Metrics()
        self.engine = Engine(
            model, processor, batch_size=batch_size, most_waiting=most_waiting,
            stepped=lambda rows, jobs: self.metrics.batch.observe(rows), decoded=self.metrics.audio_seconds.inc,
        )  # fmt: skip
        self.metrics.queue.set_function(lambda: self.engine.jobs)
        self.created = int(time.time())
        self._changing = threading.Lock()
        self.app = self._make_app()

    def _make_app(self) -> FastAPI:
        @asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[None]:
            yield
            # Uvicorn has let running requests end before.
            await asyncio.to_thread(self.engine.close, self.settings.stop_seconds)

        app = FastAPI(title="distil_whisper_hf", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
        app.add_middleware(BodyLimit, most_bytes=self.settings.most_bytes + _FORM_BYTES)
        transcribe, translate = (functools.partial(self._transcribe, task=task) for task in ("transcribe", "translate"))
        for method, path, handle in (
            ("POST", f"{_API}/audio/transcriptions", transcribe),
            ("POST", f"{_API}/audio/translations", translate),
            ("GET", f"{_API}/models", self._models),
            ("GET", _API + "/models/{name}", self._one_model),
            ("GET", "/health", self._health),
            ("GET", "/metrics", self._metrics),
            ("POST", f"{_ADMIN}/experts", self._add_experts),
            ("DELETE", _ADMIN + "/experts/{name}", self._remove_expert),
        ):
            app.add_route(path, self._guarded(path, handle), methods=[method])

        @app.exception_handler(HTTPException)
        async def unknown(request: Request, error: HTTPException) -> Response:
            return JSONResponse(RequestError(error.status_code, str(error.detail)).body, status_code=error.status_code)

        return app

    def _guarded(self, path: str, handle: Callable[[Request], Awaitable[Response]]) -> Any:
        """Checks the key, and turns whatever goes wrong into OpenAI's shape."""
        open_to_all = path in ("/health", "/metrics")

        async def guarded(request: Request) -> Response:
            begun = time.monotonic()
            try:
                if path.startswith(_ADMIN):
                    _check_key(request, self.settings.admin_key, missing=403)
                elif not open_to_all:
                    _check_key(request, self.settings.api_key, missing=None)
                response = await handle(request)
            except RequestError as error:
                response = JSONResponse(error.body, status_code=error.status, headers=error.headers)
            except HTTPException as error:
                response = JSONResponse(
                    RequestError(error.status_code, str(error.detail)).body, status_code=error.status_code
                )
            except Exception:
                logger.exception("%s failed.", path)
                error = RequestError(500, "The server failed at this request; its log says how.")
                response = JSONResponse(error.body, status_code=500)
            self.metrics.requests.labels(path, response.status_code).inc()
            if response.status_code >= 400:
                self.metrics.errors.labels(response.status_code).inc()
            elif path.startswith(f"{_API}/audio") and not isinstance(response, StreamingResponse):
                self.metrics.latency.observe(time.monotonic() - begun)
            return response

        return guarded

    async def _transcribe(self, request: Request, task: str) -> Response:
        deadline = time.monotonic() + self.settings.timeout
        async with request.form(max_files=1, max_fields=32, max_part_size=_FORM_BYTES) as form:
            experts, languages = self.model.expert_names, set(self.engine.decoder.language_tokens)
            asked = read_request(form, task, experts, languages)
            file = form.get("file")
            if file is None or isinstance(file, str):
                raise RequestError(400, "Expected a file, got none.", param="file")
            content = await file.read()
        await asyncio.to_thread(_check_audio, content, self.settings.most_seconds)
        recording = Recording(content, asked.options, name="the file", most_seconds=self.settings.most_seconds)
        if asked.stream:
            return self._stream(recording, deadline)
        job = self._submit(recording)
        try:
            found = await self._wait(job, request, deadline)
        finally:
            self.engine.cancel(job)
        self._count(found)
        body, media = answer(found, asked)
        return Response(body, media_type=media)

    def _submit(self, recording: Recording, said: Callable[[Sequence[Segment]], None] | None = None) -> Job:
        try:
            return self.engine.submit(recording, said)
        except BusyError as error:
            headers = {"Retry-After": str(error.seconds)}
            raise RequestError(429, str(error), code="queue_full", headers=headers) from error
        except ClosedError as error:
            raise RequestError(503, str(error), headers={"Retry-After": "5"}) from error

    async def _wait(self, job: Job, request: Request, deadline: float) -> Transcription:
        future = asyncio.wrap_future(job.future)
        try:
            while not future.done():
                await asyncio.wait({future}, timeout=_LOOK_AGAIN)
                if not future.done() and await request.is_disconnected():
                    # 499 is what servers write of a client that left; nobody reads it.
                    raise RequestError(499, "The client left.")
                if not future.done() and time.monotonic() > deadline:
                    raise _timeout(self.settings.timeout)
            return future.result()
        except Exception as error:
            raise _as_request_error(error) from error
        finally:
            future.cancel()

    def _stream(self, recording: Recording, deadline: float) -> StreamingResponse:
        loop, events = asyncio.get_running_loop(), asyncio.Queue[Any]()

        def tell(event: Any) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        job = self._submit(recording, tell)
        job.future.add_done_callback(tell)

        async def follow() -> AsyncIterator[str]:
            begun, first = time.monotonic(), True
            try:
                while True:
                    event = await asyncio.wait_for(events.get(), max(0.0, deadline - time.monotonic()))
                    if event is job.future:
                        found = event.result()
                        self._count(found)
                        self.metrics.latency.observe(time.monotonic() - begun)
                        yield done(found)
                        return
                    text = "".join(segment.text for segment in event)
                    yield delta(text.lstrip() if first else text)
                    first = False
            except TimeoutError:
                yield failed(_timeout(self.settings.timeout).body)
            except Exception as error:
                yield failed(_as_request_error(error).body)
            finally:
                # A client that goes away frees its place.
                self.engine.cancel(job)

        return StreamingResponse(follow(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})

    def _count(self, found: Transcription) -> None:
        self.metrics.transcribed.labels(found.language, found.expert or "shared").inc()

    async def _models(self, request: Request) -> Response:
        names = model_names(self.model.expert_names)
        return JSONResponse({"object": "list", "data": [self._model(name) for name in names]})

    async def _one_model(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in model_names(self.model.expert_names):
            raise RequestError(404, f"There is no model {name[:50]!r}.", param="model", code="model_not_found")
        return JSONResponse(self._model(name))

    def _model(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self.created, "owned_by": "distil_whisper_hf"}

    async def _health(self, request: Request) -> Response:
        if not self.engine.is_alive:
            raise RequestError(503, "The server is stopping.")
        return JSONResponse({"status": "ok"})

    async def _metrics(self, request: Request) -> Response:
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _add_experts(self, request: Request) -> Response:
        try:
            asked = await request.json()
            source = asked["source"]
            names = asked.get("names")
        except (ValueError, KeyError, TypeError, AttributeError):
            raise RequestError(400, 'Expected JSON such as {"source": "user/experts", "names": ["ca"]}.') from None
        listed = names is None or (isinstance(names, list) and all(isinstance(name, str) for name in names))
        if not isinstance(source, str) or not listed:
            raise RequestError(400, "Expected a source as text and names as a list of texts.")

        def add() -> None:
            with self._changing:
                self.model.load_expert(names or expert_names(source), source)

        try:
            await asyncio.to_thread(add)
        except (ValueError, OSError, KeyError) as error:
            raise RequestError(400, str(error), param="source") from error
        return JSONResponse({"experts": list(self.model.expert_names)}, status_code=201)

    async def _remove_expert(self, request: Request) -> Response:
        def remove() -> None:
            with self._changing:
                self.model.remove_expert(request.path_params["name"])

        try:
            await asyncio.to_thread(remove)
        except KeyError as error:
            raise RequestError(404, str(error.args[0]), code="expert_not_found") from error
        return JSONResponse({"experts": list(self.model.expert_names)})


def _check_key(request: Request, key: str | None, *, missing: int | None) -> None:
    """Refuse a request without the key; `missing`: the status where there is no key to be had, None lets all in."""
    if key is None:
        if missing is not None:
            raise RequestError(missing, "This server was started without a key for this.")
        return
    given = request.headers.get("authorization", "")
    # In a time that says nothing about where they differ.
    if not hmac.compare_digest(given.encode(), f"Bearer {key}".encode()):
        raise RequestError(
            401, "Expected the key of this server (Authorization: Bearer ...).", code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )  # fmt: skip


def _check_audio(content: bytes, most_seconds: float) -> None:
    """Refuse, before it waits for its turn, what is no audio or too long.

    Raises:
        RequestError: with the reason.
    """
    try:
        try:
            seconds = soundfile.info(io.BytesIO(content)).duration
        except (soundfile.SoundFileError, TypeError):
            seconds = 0.0
        if seconds > most_seconds:
            raise TooLongError(f"Expected audio of at most {most_seconds:g} s, got {seconds:.0f} s.")
        if seconds == 0.0:
            # What only ffmpeg knows, and what is damaged, says so as it is decoded.
            sum(len(block) for block in at_most(read_blocks(content, "the file"), most_seconds, "the file"))
    except Exception as error:
        raise _as_request_error(error) from error


def _as_request_error(error: BaseException) -> RequestError:
    if isinstance(error, RequestError):
        return error
    if isinstance(error, TooLongError):
        return RequestError(413, str(error), param="file", code="audio_too_long")
    if isinstance(error, (ValueError, OSError)):
        return RequestError(400, str(error), param="file", code="audio_unreadable")
    if isinstance(error, KeyError):
        return RequestError(404, str(error.args[0]), param="model", code="model_not_found")
    if isinstance(error, (ClosedError, asyncio.CancelledError)):
        return RequestError(503, "The server is stopping.", headers={"Retry-After": "5"})
    logger.error("A transcription failed.", exc_info=error)
    return RequestError(500, "The server failed at this request; its log says how.")


def _too_large(most_bytes: int) -> RequestError:
    limit = (most_bytes - _FORM_BYTES) / (1 << 20)
    return RequestError(413, f"Expected a file of at most {limit:g} MiB.", param="file", code="file_too_large")


def _timeout(seconds: float) -> RequestError:
    return RequestError(504, f"It was not done after {seconds:g} s.", code="timeout")

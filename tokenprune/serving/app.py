"""The engine behind HTTP, as clients of OpenAI's interface expect it. Needs the extra ``serve``."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from tokenprune.core.errors import TokenPruneError
from tokenprune.serving.engine import Answer, BusyError, Engine
from tokenprune.serving.request import ChatRequest, Limits, RequestError, chat_request

__all__ = ["serving_app"]

log = logging.getLogger(__name__)

T = TypeVar("T")

LOOK = 0.25
"""Seconds between two looks at whether a client still listens."""


class _GoneError(Exception):
    """Nobody listens any more."""


class _Metrics:
    """Counts of one server, in a registry of its own."""

    def __init__(self, engine: Engine) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("tokenprune_requests", "Requests for an answer.", ["status"], registry=self.registry)
        self.seconds = Histogram(
            "tokenprune_request_seconds", "From a request to the end of its answer.", registry=self.registry
        )
        self.tokens = Counter("tokenprune_tokens", "Tokens read and said.", ["kind"], registry=self.registry)
        waiting = Gauge("tokenprune_waiting", "Requests under way or in the queue.", registry=self.registry)
        waiting.set_function(lambda: engine.waiting)

    def answered(self, answer: Answer) -> None:
        """Count the tokens of an answer."""
        self.tokens.labels("prompt").inc(answer.prompt_tokens)
        self.tokens.labels("visual").inc(answer.visual_tokens)
        self.tokens.labels("completion").inc(answer.completion_tokens)


def serving_app(
    engine: Engine, *, name: str, strategy: str, keep: int | float, limits: Limits | None = None
) -> FastAPI:
    """Chat completions, models, health and metrics of one engine.

    Parameters
    ----------
    engine : Engine
        Is closed with the application.
    name : str
        What clients call the model.
    strategy : str
    keep : int or float
        Where a request names none.
    limits : Limits, optional
        What one request may cost.
    """
    bounds = limits or Limits()
    # the defaults are held to what is asked of requests
    default = {"model": name, "messages": [{"role": "user", "content": "?"}]}
    chat_request(json.dumps(default).encode(), model=name, strategy=strategy, keep=keep, limits=bounds)
    metrics = _Metrics(engine)
    started = int(time.time())

    async def completions(request: Request) -> Response:
        begun = time.monotonic()

        def ended(status: int) -> None:
            metrics.requests.labels(str(status)).inc()
            metrics.seconds.observe(time.monotonic() - begun)

        try:
            body = await _body(request, bounds.body_bytes)
            asked = await run_in_threadpool(chat_request, body, model=name, strategy=strategy, keep=keep, limits=bounds)
            if asked.stream:
                return await _streamed(engine, asked, request, name, metrics, ended)
            answer = await _whole(engine, asked, request)
        except Exception as error:
            response = _refused(error)
            ended(response.status_code)
            return response
        metrics.answered(answer)
        ended(200)
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": answer.text, "refusal": None},
            "finish_reason": _reason(answer),
            "logprobs": None,
        }
        return JSONResponse({**_head(name, "chat.completion"), "choices": [choice], "usage": _usage(answer)})

    async def models(_: Request) -> Response:
        one = {"id": name, "object": "model", "created": started, "owned_by": "tokenprune"}
        return JSONResponse({"object": "list", "data": [one]})

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok", "model": name, "waiting": engine.waiting})

    async def numbers(_: Request) -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(engine.close)

    app = FastAPI(title="tokenprune", lifespan=lifespan, openapi_url=None)
    app.add_exception_handler(HTTPException, _told)
    app.add_api_route("/v1/chat/completions", completions, methods=["POST"], response_model=None)
    app.add_api_route("/v1/models", models, response_model=None)
    app.add_api_route("/health", health, response_model=None)
    app.add_api_route("/metrics", numbers, response_model=None)
    return app


async def _body(request: Request, most: int) -> bytes:
    """The body; reading stops where it is too long."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > most:
            raise RequestError(f"the request has more than {most} bytes", status=413)
    return bytes(body)


async def _whole(engine: Engine, asked: ChatRequest, request: Request) -> Answer:
    """The answer, in one piece; whoever hung up while waiting is taken out of the queue."""
    waiting = engine.submit(asked)
    return await _listened(asyncio.ensure_future(asyncio.wrap_future(waiting)), waiting, request)


async def _listened(coming: asyncio.Future[T], waiting: Future[Answer], request: Request) -> T:
    """What is coming, while somebody waits for it."""
    while not (await asyncio.wait({coming}, timeout=LOOK))[0]:
        if await request.is_disconnected() and waiting.cancel():
            coming.cancel()
            raise _GoneError
    return coming.result()


async def _streamed(
    engine: Engine,
    asked: ChatRequest,
    request: Request,
    name: str,
    metrics: _Metrics,
    ended: Callable[[int], None],
) -> Response:
    """The answer as server-sent events. The first piece decides whether it is an answer or a refusal."""
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[str | None] = asyncio.Queue()
    gone = False

    def heard(piece: str) -> None:
        if gone:
            raise _GoneError
        loop.call_soon_threadsafe(pieces.put_nowait, piece)

    future = engine.submit(asked, heard)
    future.add_done_callback(lambda _: loop.call_soon_threadsafe(pieces.put_nowait, None))
    first = await _listened(asyncio.ensure_future(pieces.get()), future, request)
    if first is None and (error := future.exception()) is not None:
        raise error
    head = _head(name, "chat.completion.chunk")

    def chunk(delta: Mapping[str, str], reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
        return _event({**head, "choices": [choice], **({"usage": None} if asked.usage else {})})

    async def events() -> AsyncIterator[str]:
        nonlocal gone
        status = 499  # the client closed the connection
        try:
            yield chunk({"role": "assistant", "content": ""})
            piece = first
            while piece is not None:
                yield chunk({"content": piece})
                piece = await pieces.get()
            if (error := future.exception()) is not None:
                response = _refused(error)
                status = response.status_code
                yield f"data: {bytes(response.body).decode()}\n\n"
                return
            answer = future.result()
            metrics.answered(answer)
            yield chunk({}, _reason(answer))
            if asked.usage:
                yield _event({**head, "choices": [], "usage": _usage(answer)})
            status = 200
            yield "data: [DONE]\n\n"
        finally:
            gone = True
            ended(status)

    return StreamingResponse(events(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


def _head(name: str, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": name}


def _event(data: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(data)}\n\n"


def _reason(answer: Answer) -> str:
    return "stop" if answer.ended else "length"


def _usage(answer: Answer) -> dict[str, Any]:
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "total_tokens": answer.prompt_tokens + answer.completion_tokens,
        "visual_tokens": answer.visual_tokens,
    }


def _refused(error: BaseException) -> JSONResponse:
    """What went wrong, as clients expect to be told; what nobody foresaw is told to the log alone."""
    if isinstance(error, RequestError):
        return _error(error.status, str(error), "invalid_request_error", error.param, error.code)
    if isinstance(error, BusyError):
        return _error(429, str(error), "rate_limit_error", None, "busy")
    if isinstance(error, TokenPruneError):
        return _error(400, str(error), "invalid_request_error", None, type(error).__name__)
    if isinstance(error, _GoneError):
        return _error(499, "the client closed the connection", "invalid_request_error", None, None)
    log.error("a request failed", exc_info=error)
    return _error(500, "the server failed; its log says why", "server_error", None, None)


async def _told(_: Request, error: Exception) -> Response:
    """Wrong addresses and methods, in the same form."""
    assert isinstance(error, HTTPException)
    return _error(error.status_code, str(error.detail), "invalid_request_error", None, None)


def _error(status: int, message: str, kind: str, param: str | None, code: str | None) -> JSONResponse:
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return JSONResponse(body, status_code=status, headers={"Retry-After": "1"} if status == 429 else None)

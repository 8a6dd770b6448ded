"""An OpenAI-compatible endpoint on the loopback that does as it is told: answers, is slow, fails, cuts off."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

__all__ = ["Server", "completion", "judge_server"]


def completion(text: str | None, **more: Any) -> dict[str, Any]:
    """The body of a chat completion."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"} | more
    return {"id": "x", "choices": [choice], "usage": {"prompt_tokens": 100, "completion_tokens": 10}}


class Server:
    """Serves ``act(n, request)`` for the n-th request, from 0.

    What ``act`` returns: a text (a completion), a mapping (the body), ``(status, body, headers)``, "CUT" to close the
    connection in the middle of a body, "DROP" to close it before one, or a number of seconds to sleep before "0.5".
    """

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.begun: list[float] = []
        self.act: Callable[[int, dict[str, Any]], Any] = lambda n, request: "0.5"
        lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    n = len(server.requests)
                    server.requests.append(body)
                    server.headers.append(dict(self.headers))
                    server.begun.append(time.monotonic())
                done = server.act(n, body)
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the client has gone
                    self._send(done)

            def _send(self, done: Any) -> None:
                status, headers = 200, {}
                if isinstance(done, int | float):
                    time.sleep(done)
                    done = "0.5"
                if isinstance(done, tuple):
                    status, done, headers = done
                if done == "DROP":
                    self.close_connection = True
                    return
                cut = done == "CUT"
                made = completion("0.25") if cut else completion(done) if isinstance(done, str) else done
                data = made if isinstance(made, bytes) else json.dumps(made).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data[: len(data) // 2] if cut else data)
                self.close_connection = True

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def judge_server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()

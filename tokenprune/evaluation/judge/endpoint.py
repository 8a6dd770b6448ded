"""One question to an OpenAI-compatible endpoint: one reply, or why there is none and whether to ask again."""

from __future__ import annotations

import email.utils
import http.client
import json
import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import yaml

from tokenprune.core.errors import ConfigError, JudgeError

__all__ = ["KEY", "Endpoint", "NoReplyError", "Reply"]

KEY: Final = "TOKENPRUNE_JUDGE_KEY"
"""Environment variable of the key; ``OPENAI_API_KEY`` counts for OpenAI's own host, and is sent to no other."""

_OPENAI: Final = "api.openai.com"

_AGAIN: Final = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""States of HTTP that pass."""

_MOST: Final = 2**22
"""Bytes of a reply; more is none."""

_DEFAULTS: Final = {"temperature": 0, "max_tokens": 256}

Messages = Sequence[Mapping[str, str]]


class NoReplyError(Exception):
    """There is no reply this time, and there may be one the next.

    Attributes
    ----------
    after : float or None
        Seconds that the server asks to wait.
    """

    def __init__(self, why: str, after: float | None = None) -> None:
        super().__init__(why)
        self.after = after


@dataclass(frozen=True)
class Reply:
    """What came back.

    Attributes
    ----------
    text : str
    whole : bool
        Whether the model came to an end itself.
    tokens_in, tokens_out : int or None
        As the server counts them; None where it does not.
    """

    text: str
    whole: bool
    tokens_in: int | None
    tokens_out: int | None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would take the key to another host."""

    def redirect_request(self, *_: Any) -> None:
        """Refuse."""


@dataclass(frozen=True)
class Endpoint:
    """Where a judge is asked.

    The standard library's client: one POST needs no more, and which HTTP package is installed differs between versions
    of transformers.

    Attributes
    ----------
    url : str
        Up to ``/v1``, or whole.
    model : str
    options : mapping
        Further fields of a request, as ``temperature`` and ``max_tokens``.
    key : str
        Empty for none; in no message, file or ``repr``.
    timeout : float
        Seconds without a sign of life, and ten times as many for a whole reply.
    """

    url: str
    model: str
    options: Mapping[str, Any] = field(default_factory=lambda: dict(_DEFAULTS))
    key: str = field(default="", repr=False)
    timeout: float = 60.0

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"--url: give the address of an endpoint, e.g. https://api.openai.com/v1; got {self._at}")
        if parts.username or parts.password:
            raise ConfigError(f"--url: keys have no place in an address; set {KEY}")
        if not self.model.strip():
            raise ConfigError("--judge-model is missing: which model of the endpoint shall judge?")
        if self.key and parts.scheme == "http" and not self._local:
            raise ConfigError(
                f"--url {self._at}: the key would cross the network unencrypted; use https, or unset {KEY} where the "
                "server needs none"
            )

    @classmethod
    def of(
        cls,
        url: str,
        model: str,
        options: str = "",
        timeout: float = 60.0,
        environment: Mapping[str, str] | None = None,
    ) -> Endpoint:
        """From a command line and the environment.

        Parameters
        ----------
        url, model : str
        options : str, default ""
            ``max_tokens=none,max_completion_tokens=512``: fields of a request, "none" leaves one out.
        timeout : float, default 60
        environment : mapping, optional
            Where the key is looked for; by default ``os.environ``.
        """
        known = os.environ if environment is None else environment
        host = urlsplit(url).hostname
        key = known.get(KEY) or (known.get("OPENAI_API_KEY") if host == _OPENAI else None) or ""
        fields: dict[str, Any] = dict(_DEFAULTS)
        for pair in filter(None, (word.strip() for word in options.split(","))):
            name, equals, value = pair.partition("=")
            if not equals or name in ("model", "messages", "stream", "n"):
                raise ConfigError(f"--options: write field=value, separated by commas; got {pair!r}")
            fields[name.strip()] = yaml.safe_load(value)
            if value.strip().lower() == "none":
                del fields[name.strip()]
        if timeout <= 0:
            raise ConfigError(f"--timeout must be more than 0 seconds, got {timeout}")
        return cls(url, model, fields, key.strip(), timeout)

    @property
    def identity(self) -> dict[str, Any]:
        """What a verdict depends on: neither address nor key."""
        return {"model": self.model, "options": dict(sorted(self.options.items()))}

    @property
    def _local(self) -> bool:
        return urlsplit(self.url).hostname in ("localhost", "127.0.0.1", "::1")

    @property
    def _at(self) -> str:
        """The address without what may be secret."""
        parts = urlsplit(self.url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

    def ask(self, messages: Messages) -> Reply:
        """Send one request.

        Parameters
        ----------
        messages : sequence of mapping
            ``role`` and ``content``.

        Raises
        ------
        NoReplyError
            None came: no connection, a time-out, a reply that was cut off, a server that is busy or broken.
        JudgeError
            None will come: a wrong key, no such model, a request that the server refuses.
        """
        parts = urlsplit(self.url)
        path = parts.path.rstrip("/")
        path = path if path.endswith("/chat/completions") else f"{path}/chat/completions"
        body = json.dumps({"model": self.model, "messages": [dict(m) for m in messages], **self.options})
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "tokenprune"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(
            urlunsplit((*parts[:2], path, parts.query, "")), body.encode(), headers, method="POST"
        )
        # what is on this machine is behind no proxy
        handlers = [_NoRedirect(), *([urllib.request.ProxyHandler({})] if self._local else [])]
        end = time.monotonic() + 10 * self.timeout
        try:
            with urllib.request.build_opener(*handlers).open(request, timeout=self.timeout) as response:
                data = _read(response, end)
        except urllib.error.HTTPError as error:
            self._refused(error)
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            if isinstance(reason, ssl.SSLCertVerificationError):
                raise JudgeError(
                    f"the judge's certificate cannot be trusted: {self._at}: {reason.verify_message}"
                ) from None
            raise NoReplyError(self._clean(f"{self._at}: {str(reason) or type(reason).__name__}")) from None
        return _parsed(data)

    def _refused(self, error: urllib.error.HTTPError) -> Any:
        try:
            said = error.read(2000).decode("utf-8", "replace")
        except (OSError, http.client.HTTPException):
            said = ""
        why = self._clean(f"{self._at}: HTTP {error.code}: {' '.join(said.split())[:300] or error.reason}")
        if error.code in _AGAIN and "insufficient_quota" not in said:
            raise NoReplyError(why, _seconds(error.headers.get("Retry-After"))) from None
        way_out = {
            401: f"; set {KEY} to a key of this endpoint",
            403: f"; set {KEY} to a key that may use this model",
            404: "; is the address right (it usually ends in /v1), and the model's name?",
            400: "; fields that the server does not know can be left out: --options temperature=none",
        }
        moved = "; it answers with a redirect: give the address that it points to" if 300 <= error.code < 400 else ""
        raise JudgeError(f"the judge refuses: {why}{moved or way_out.get(error.code, '')}") from None

    def _clean(self, text: str) -> str:
        """Some servers repeat the key that they refuse."""
        return text.replace(self.key, "***") if self.key else text


def _read(response: Any, end: float) -> bytes:
    """All of a reply, unless it takes for ever."""
    data = bytearray()
    while piece := response.read1(2**16):
        data += piece
        if time.monotonic() > end:
            raise TimeoutError("the reply takes too long")
        if len(data) > _MOST:
            raise ValueError("the reply is too long")
    length = response.headers.get("Content-Length")
    if length is not None and length.isdecimal() and len(data) < int(length):
        raise http.client.IncompleteRead(bytes(data), int(length) - len(data))
    return bytes(data)


def _seconds(text: str | None) -> float | None:
    """``Retry-After``: seconds, or a date."""
    if not text:
        return None
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def _parsed(data: bytes) -> Reply:
    """The one message of a reply."""
    try:
        found = json.loads(data)
        (choice,) = found["choices"]
        text, end = choice["message"]["content"], choice.get("finish_reason")
        usage = found.get("usage") or {}
        counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        said = " ".join(data[:200].decode("utf-8", "replace").split())
        raise NoReplyError(f"no chat completion with one choice ({type(error).__name__}): {said!r}") from None
    tokens_in, tokens_out = (n if isinstance(n, int) and not isinstance(n, bool) and n >= 0 else None for n in counts)
    return Reply(text if isinstance(text, str) else "", end in (None, "stop"), tokens_in, tokens_out)

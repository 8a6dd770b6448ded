"""What a client asked for: the body of ``/v1/chat/completions``, checked before anything is run."""

from __future__ import annotations

import base64
import binascii
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from tokenprune.core.errors import ConfigError, OptionTypeError, TokenPruneError, closest
from tokenprune.core.registry import build
from tokenprune.core.strategy import AnyStrategy
from tokenprune.data.images import open_image

__all__ = ["ChatRequest", "Limits", "RequestError", "chat_request"]


class RequestError(TokenPruneError, ValueError):
    """A request that cannot be served; ``param`` names what is wrong with it, ``status`` is that of HTTP."""

    def __init__(self, message: str, param: str | None = None, status: int = 400, code: str | None = None) -> None:
        super().__init__(message)
        self.param, self.status, self.code = param, status, code


@dataclass(frozen=True)
class Limits:
    """What one request may cost.

    Attributes
    ----------
    body_bytes : int
        Of the whole request.
    picture_bytes : int
        Of a picture's file, after base64.
    picture_pixels : int
        Read off the file's head; a larger picture is never decoded.
    pictures : int
        In a conversation.
    text : int
        Characters of a conversation.
    tokens : int
        Of an answer.
    waiting : int
        Requests in the queue; one more is sent away.
    """

    body_bytes: int = 32 * 2**20
    picture_bytes: int = 10 * 2**20
    picture_pixels: int = 20_000_000
    pictures: int = 8
    text: int = 20_000
    tokens: int = 512
    waiting: int = 64

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, bool) or not isinstance(value, int):
                raise OptionTypeError(f"limit {name} must be an int, got {type(value).__name__} {value!r}")
            if value < 1:
                raise ConfigError(f"limit {name} must be at least 1, got {value}")


@dataclass(frozen=True)
class ChatRequest:
    """A conversation that waits for an answer.

    Attributes
    ----------
    messages : tuple of dict
        As chat templates take them: ``role``, and ``content`` as a list of texts and places of pictures.
    pictures : tuple of Image
        In the order in which messages show them.
    strategy : AnyStrategy
    keep : int or float
        A count for each picture, or a ratio.
    max_tokens : int
    stream : bool
    usage : bool
        Whether a stream ends with a count of tokens.
    """

    messages: tuple[dict[str, Any], ...]
    pictures: tuple[Image.Image, ...]
    strategy: AnyStrategy
    keep: int | float
    max_tokens: int
    stream: bool
    usage: bool


ROLES = ("system", "user", "assistant")
READ = ("messages", "model", "max_tokens", "max_completion_tokens", "stream", "stream_options", "tokenprune")
OF_NO_CONSEQUENCE = ("user", "seed", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key")
"""Fields that say nothing about the answer of a model that decodes greedily."""

ONLY: Mapping[str, tuple[Any, ...]] = {
    "temperature": (0,),
    "n": (1,),
    "top_p": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logprobs": (False,),
    "response_format": ({"type": "text"},),
    "stop": ([],),
    "tools": ([],),
    "logit_bias": ({},),
    "modalities": (["text"],),
}
"""Fields that are understood at the values that ask for what is done here."""

DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,(?P<data>.*)", re.DOTALL)


def chat_request(body: bytes, *, model: str, strategy: str, keep: int | float, limits: Limits) -> ChatRequest:
    """Read the body of a request.

    Parameters
    ----------
    body : bytes
        JSON.
    model : str
        The name under which a model is served.
    strategy, keep
        Where the request names none.
    limits : Limits

    Raises
    ------
    RequestError
        The body asks for what is not served, or for too much.
    TokenPruneError
        No such strategy, or no such option of it.
    """
    try:
        asked = json.loads(body)
        json.dumps(asked, ensure_ascii=False).encode()  # halves of characters, which no tokenizer reads
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body is no JSON: {error}") from error
    if not isinstance(asked, dict):
        raise RequestError(f"the body must be a JSON object, got {_kind(asked)}")
    _check_fields(asked)
    if asked.get("model") != model:
        known = f"this server has {model!r}"
        raise RequestError(f"model: no {asked.get('model')!r}; {known}", "model", 404, "model_not_found")
    pruning = _given(asked, "tokenprune", dict, {})
    if extra := sorted(pruning.keys() - {"strategy", "keep"}):
        raise RequestError(f"tokenprune: no {extra[0]!r}; known: keep, strategy", f"tokenprune.{extra[0]}")
    messages, pictures = _conversation(asked.get("messages"), limits)
    options = _given(asked, "stream_options", dict, {})
    return ChatRequest(
        messages=messages,
        pictures=pictures,
        strategy=build(_given(pruning, "strategy", str, strategy, "tokenprune.strategy")),
        keep=_keep(pruning.get("keep", keep)),
        max_tokens=_length(asked, limits),
        stream=_given(asked, "stream", bool, False),
        usage=_given(options, "include_usage", bool, False, "stream_options.include_usage"),
    )


def _check_fields(asked: Mapping[str, Any]) -> None:
    """Refuse what would be left out without a word."""
    for name, value in asked.items():
        if name in READ or name in OF_NO_CONSEQUENCE or value is None:
            continue
        if name not in ONLY:
            raise RequestError(f"{name}: no such field here; {closest(name, [*READ, *ONLY])}", name)
        if isinstance(value, bool) != isinstance(ONLY[name][0], bool) or value not in ONLY[name]:
            accepted = " or ".join(map(json.dumps, ONLY[name]))
            raise RequestError(f"{name}: answers are decoded greedily, so only {accepted} is served", name)


def _keep(keep: Any) -> int | float:
    if isinstance(keep, bool) or not isinstance(keep, int | float):
        raise RequestError(f"keep must be a count or a ratio, got {_kind(keep)}", "tokenprune.keep")
    if not (1 <= keep < 2**31 if isinstance(keep, int) else 0 < keep <= 1):
        raise RequestError(f"keep must be a count of at least 1 or a ratio in (0, 1], got {keep}", "tokenprune.keep")
    return keep


def _length(asked: Mapping[str, Any], limits: Limits) -> int:
    name = "max_completion_tokens" if asked.get("max_completion_tokens") is not None else "max_tokens"
    length = _given(asked, name, int, min(128, limits.tokens))
    if not 1 <= length <= limits.tokens:
        raise RequestError(f"{name} must lie in 1..{limits.tokens}, got {length}", name)
    return int(length)


def _conversation(messages: Any, limits: Limits) -> tuple[tuple[dict[str, Any], ...], tuple[Image.Image, ...]]:
    """Messages as chat templates take them, and the pictures that they show."""
    if not isinstance(messages, list) or not messages:
        raise RequestError("messages must be a list with one message at least", "messages")
    read: list[dict[str, Any]] = []
    files: list[tuple[str, str]] = []
    letters = 0
    for i, message in enumerate(messages):
        where = f"messages[{i}]"
        if not isinstance(message, dict):
            raise RequestError(f"{where} must be an object, got {_kind(message)}", where)
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise RequestError(f"{where}.role: no {role!r}; known: {', '.join(ROLES)}", f"{where}.role")
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not isinstance(parts, list) or not parts:
            raise RequestError(f"{where}.content must be a string or a list of parts", f"{where}.content")
        here: list[dict[str, Any]] = []
        for j, part in enumerate(parts):
            here.append(_part(part, f"{where}.content[{j}]", role, files))
        letters += sum(len(part.get("text", "")) for part in here)
        read.append({"role": role, "content": here})
    if read[-1]["role"] != "user":
        raise RequestError("messages: the last one must be the user's", "messages")
    if letters > limits.text:
        raise RequestError(f"messages hold {letters} characters, and {limits.text} at most are read", "messages", 413)
    if len(files) > limits.pictures:
        raise RequestError(f"messages show {len(files)} pictures; {limits.pictures} at most", "messages", 413)
    return tuple(read), tuple(_picture(url, where, limits) for where, url in files)


def _part(part: Any, where: str, role: str, files: list[tuple[str, str]]) -> dict[str, Any]:
    """A part of a message; what a picture is goes to ``files``."""
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if isinstance(part, dict) and part.get("type") == "image_url":
        url = part.get("image_url")
        url = url.get("url") if isinstance(url, dict) else url
        if not isinstance(url, str):
            raise RequestError(f"{where}.image_url.url must be a string", f"{where}.image_url.url")
        if role != "user":
            raise RequestError(f"{where}: pictures are the user's, not the {role}'s", where)
        files.append((f"{where}.image_url.url", url))
        return {"type": "image"}
    raise RequestError(f"{where} must be of type text, with a text, or image_url", where)


def _picture(url: str, where: str, limits: Limits) -> Image.Image:
    """Open a picture; the file's head is looked at before it is decoded."""
    found = DATA_URL.fullmatch(url)
    if found is None:
        way = "pictures come inside the request, as data:image/png;base64,...; nothing is fetched"
        raise RequestError(f"{where}: {way} (got {url[:40]!r})", where)
    if len(found["data"]) * 3 // 4 > limits.picture_bytes + 2:
        raise RequestError(f"{where}: a file of more than {limits.picture_bytes} bytes", where, 413)
    try:
        data = base64.b64decode(found["data"], validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(f"{where} is not base64: {error}", where) from error
    if len(data) > limits.picture_bytes:
        raise RequestError(f"{where}: a file of {len(data)} bytes; {limits.picture_bytes} at most", where, 413)
    try:
        return open_image(io.BytesIO(data), name=where, most_pixels=limits.picture_pixels)
    except ConfigError as error:
        raise RequestError(str(error), where) from error


def _given(values: Mapping[str, Any], name: str, kind: type, default: Any, where: str | None = None) -> Any:
    """A field of the right type, or the default where it is missing or null."""
    value = values.get(name)
    if value is None:
        return default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise RequestError(f"{where or name} must be of type {NAMES[kind]}, got {_kind(value)}", where or name)
    return value


NAMES: Mapping[type, str] = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
    type(None): "null",
}


def _kind(value: Any) -> str:
    return NAMES[type(value)]

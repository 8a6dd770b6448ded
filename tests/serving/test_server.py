"""The demo server, as the stock client of OpenAI's interface sees it, on the loopback."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
import torch
import uvicorn
from PIL import Image

import tokenprune as tp
from tokenprune.core.errors import NotCompiledWarning
from tokenprune.data.scenes import scene
from tokenprune.hf.chat import prompt_inputs
from tokenprune.serving import ChatRequest, Engine, Limits, chat_request
from tokenprune.serving.app import serving_app
from tokenprune.zoo.embedded import load

LIMITS = Limits(body_bytes=2**20, picture_bytes=400_000, picture_pixels=400_000, pictures=2, tokens=32, waiting=16)


class Served:
    """A server in a thread, its engine and its model."""

    def __init__(self) -> None:
        self.model, self.processor = load()
        self.engine = Engine(self.model, self.processor, waiting=LIMITS.waiting)
        app = serving_app(self.engine, name="embedded", strategy="mi-pruner", keep=64, limits=LIMITS)
        self.server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        self.address = f"http://127.0.0.1:{self.server.servers[0].sockets[0].getsockname()[1]}"
        self.client = openai.OpenAI(base_url=f"{self.address}/v1", api_key="none", max_retries=0)

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.address + path, timeout=300) as response:
            return str(response.read().decode())

    def ask(self, image: Image.Image, question: str, **options: Any) -> Any:
        return self.client.chat.completions.create(
            **{"model": "embedded", "messages": said(question, url(image)), "max_tokens": 8, **options}
        )

    def attached(self, image: Image.Image, question: str, strategy: str, keep: float) -> str:
        """What a user of the library gets."""
        inputs = prompt_inputs(self.processor, [image], [question])
        with torch.no_grad(), tp.attach(self.model, strategy, keep, processor=self.processor):
            out = self.model.generate(**inputs, max_new_tokens=8, do_sample=False)
        return str(self.processor.tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


def url(image: Image.Image, kind: str = "PNG") -> str:
    file = io.BytesIO()
    image.save(file, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def said(question: str, *urls: str) -> list[dict[str, Any]]:
    shown = [{"type": "image_url", "image_url": {"url": one}} for one in urls]
    return [{"role": "user", "content": [*shown, {"type": "text", "text": question}]}]


def pruned(strategy: str, keep: float) -> dict[str, Any]:
    return {"tokenprune": {"strategy": strategy, "keep": keep}}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    one = Served()
    yield one
    one.client.close()
    one.server.should_exit = True
    one.thread.join()


@pytest.fixture(scope="module")
def asked() -> list[tuple[Image.Image, str]]:
    """A question about each of sixteen pictures."""
    scenes = [scene(5, i) for i in range(16)]
    return [(one.image, one.questions[i % len(one.questions)].text) for i, one in enumerate(scenes)]


WAYS = [("mi-pruner", 64), ("divprune", 32), ("mi-pruner:lam=0.7", 8), ("fastv", 16), ("random", 1), ("random", 1.0)]


def test_sixteen_clients_get_the_answers_of_attach_each_its_own(
    served: Served, asked: list[tuple[Image.Image, str]]
) -> None:
    jobs = [(*one, *WAYS[i % len(WAYS)]) for i, one in enumerate(asked)]
    gate = threading.Barrier(len(jobs))

    def ask(i: int) -> str:
        image, question, strategy, keep = jobs[i]
        gate.wait()
        if i % 2:
            chunks = list(served.ask(image, question, extra_body=pruned(strategy, keep), stream=True))
            assert chunks[-1].choices[0].finish_reason in ("stop", "length")
            return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        return str(served.ask(image, question, extra_body=pruned(strategy, keep)).choices[0].message.content)

    with ThreadPoolExecutor(len(jobs)) as clients:
        got = list(clients.map(ask, range(len(jobs))))
    wanted = [served.attached(*job) for job in jobs]
    assert got == wanted
    assert len(set(wanted)) >= 4, "answers so alike that a mix-up would not show"
    assert served.engine.waiting == 0
    assert "generate" not in vars(served.model), "the model is a plain one again"


def test_the_budget_of_a_request_decides(served: Served, asked: list[tuple[Image.Image, str]]) -> None:
    """Somewhere one token less than all says something else, or budgets would be read and forgotten."""
    few = [served.ask(*one, extra_body=pruned("random", 1)).choices[0].message.content for one in asked[:6]]
    all_of_them = [served.ask(*one, extra_body=pruned("random", 1.0)).choices[0].message.content for one in asked[:6]]
    assert few != all_of_them
    inputs = [prompt_inputs(served.processor, [image], [question]) for image, question in asked[:6]]
    plain = [served.model.generate(**one, max_new_tokens=8, do_sample=False) for one in inputs]
    cut = [out[0, one["input_ids"].shape[1] :] for out, one in zip(plain, inputs, strict=True)]
    assert all_of_them == [served.processor.tokenizer.decode(one, skip_special_tokens=True) for one in cut]


def test_usage_and_the_end_of_an_answer(served: Served, asked: list[tuple[Image.Image, str]]) -> None:
    answer = served.ask(*asked[0])
    assert answer.object == "chat.completion"
    assert answer.model == "embedded"
    assert answer.choices[0].finish_reason == "stop"
    length = prompt_inputs(served.processor, *([one] for one in asked[0]))["input_ids"].shape[1]
    assert answer.usage.prompt_tokens == length
    assert answer.usage.total_tokens == length + answer.usage.completion_tokens
    assert answer.usage.model_extra["visual_tokens"] == 576
    cut_off = served.ask(*asked[0], max_tokens=1)
    assert (cut_off.choices[0].finish_reason, cut_off.usage.completion_tokens) == ("length", 1)
    *_, last = served.ask(*asked[0], stream=True, stream_options={"include_usage": True})
    assert last.usage.completion_tokens == answer.usage.completion_tokens


def test_words_alone_and_several_turns(served: Served, asked: list[tuple[Image.Image, str]]) -> None:
    image, question = asked[0]
    words = [{"role": "system", "content": "be brief"}, {"role": "user", "content": question}]
    assert served.ask(image, question, messages=words).usage.model_extra["visual_tokens"] == 0
    turns = [*said(question, url(image)), {"role": "assistant", "content": "two"}, *said("and dogs ?")]
    assert served.ask(image, question, messages=turns).usage.model_extra["visual_tokens"] == 576


def test_health_models_and_metrics(served: Served, asked: list[tuple[Image.Image, str]]) -> None:
    def count(line: str) -> float:
        found = [row.split()[1] for row in served.get("/metrics").splitlines() if row.startswith(line)]
        return float(found[0]) if found else 0.0

    before = [count('tokenprune_requests_total{status="200"}'), count('tokenprune_tokens_total{kind="visual"}')]
    served.ask(*asked[0])
    list(served.ask(*asked[0], stream=True))
    assert json.loads(served.get("/health")) == {"status": "ok", "model": "embedded", "waiting": 0}
    after = [count('tokenprune_requests_total{status="200"}'), count('tokenprune_tokens_total{kind="visual"}')]
    assert [b - a for a, b in zip(before, after, strict=True)] == [2, 2 * 576]
    assert [one.id for one in served.client.models.list()] == ["embedded"]


GREY = Image.new("RGB", (64, 64), "grey")
WIDE = Image.new("RGB", (1000, 500))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        ({"messages": said("what ?", "https://example.org/cat.png")}, 400, "nothing is fetched"),
        ({"messages": said("what ?", "file:///etc/passwd")}, 400, "nothing is fetched"),
        ({"messages": said("what ?", "data:image/png;base64,????")}, 400, "is not base64"),
        ({"messages": said("what ?", "data:image/png;base64,aGVsbG8=")}, 400, "cannot be read"),
        ({"messages": said("what ?", "data:image/png;base64," + "A" * 600_000)}, 413, "more than 400000 bytes"),
        ({"messages": said("what ?", url(WIDE))}, 400, "1000 x 500 pixels, and 400000 at most"),
        ({"messages": said("what ?", *[url(GREY)] * 3)}, 413, "3 pictures; 2 at most"),
        ({"messages": said("x" * 1_100_000)}, 413, "more than 1048576 bytes"),
        ({"messages": said("x" * 30_000)}, 413, "30000 characters"),
        ({"messages": said("is <image> red ?", url(GREY))}, 400, "stands for a picture"),
        ({"messages": said("which is red ?", url(GREY), url(GREY))}, 400, "this model reads 1024 together"),
        ({"messages": []}, 400, "one message at least"),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400, "messages[0].role: no 'tool'"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, 400, "must be the user's"),
        ({"model": "gpt"}, 404, "this server has 'embedded'"),
        ({"temperature": 0.7}, 400, "temperature: answers are decoded greedily"),
        ({"n": 2}, 400, "n: answers"),
        ({"max_tokens": 33}, 400, "max_tokens must lie in 1..32"),
        ({"extra_body": {"max_token": 3}}, 400, "did you mean 'max_tokens'"),
        ({"extra_body": {"tokenprune": {"budget": 3}}}, 400, "known: keep, strategy"),
        ({"extra_body": pruned("mi-prunner", 64)}, 400, "did you mean 'mi-pruner'"),
        ({"extra_body": pruned("mi-pruner:lamb=1", 64)}, 400, "lam"),
        ({"extra_body": pruned("evs", 64)}, 400, "frames"),
        ({"extra_body": pruned("mi-pruner", 0)}, 400, "keep must be a count of at least 1"),
        ({"extra_body": pruned("mi-pruner", 1.5)}, 400, "keep must be"),
        ({"extra_body": pruned("mi-pruner", True)}, 400, "keep must be a count or a ratio, got boolean"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_what_cannot_be_served_is_refused_and_said(
    served: Served, options: dict[str, Any], status: int, words: str, stream: bool
) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        list(served.ask(GREY, "what is it ?", **{"stream": stream, **options}))
    assert refused.value.status_code == status
    assert words in refused.value.message
    assert set(refused.value.body or {}) == {"message", "type", "param", "code"}


def test_no_json_and_no_such_address(served: Served) -> None:
    half = json.dumps({"model": "embedded", "messages": said("\ud800")}).encode()
    for path, body, status in (
        ("/v1/chat/completions", half, 400),
        ("/v1/chat/completions", b"{", 400),
        ("/v1/chat/completions", b"[]", 400),
        ("/v1", b"", 404),
    ):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(urllib.request.Request(served.address + path, data=body), timeout=300)
        with refused.value as answer:
            assert answer.code == status
            assert json.loads(answer.read())["error"]["type"] == "invalid_request_error"


def test_a_full_queue_sends_away_and_goes_on(served: Served, asked: list[tuple[Image.Image, str]]) -> None:
    gate = threading.Event()
    held = served.engine._turns.submit(gate.wait)
    words = {"messages": said(asked[0][1])}
    with ThreadPoolExecutor(LIMITS.waiting) as clients:
        waiting = [clients.submit(served.ask, *asked[0], **words) for _ in range(LIMITS.waiting)]
        while served.engine.waiting < LIMITS.waiting:
            time.sleep(0.01)
        with pytest.raises(openai.RateLimitError, match="wait already"):
            served.ask(*asked[0])
        gate.set()
        said_then = {one.result().choices[0].message.content for one in waiting}
    assert held.result()
    assert said_then == {served.ask(*asked[0], **words).choices[0].message.content}
    assert served.engine.waiting == 0


def test_who_hangs_up_does_not_hold_the_others(served: Served, asked: list[tuple[Image.Image, str]]) -> None:
    stream = served.ask(*asked[0], stream=True)
    next(iter(stream))
    stream.close()
    gate = threading.Event()
    served.engine._turns.submit(gate.wait)
    for streams in (False, True):
        with pytest.raises(openai.APITimeoutError):
            served.ask(*asked[0], timeout=0.3, stream=streams)
    deadline = time.monotonic() + 300
    while served.engine.waiting and time.monotonic() < deadline:
        time.sleep(0.01)
    assert served.engine.waiting == 0, "who hung up is still in the queue"
    gate.set()
    assert served.ask(*asked[1], max_tokens=8).choices[0].message.content == served.attached(*asked[1], "mi-pruner", 64)


@pytest.mark.parametrize("strategy", ["mi-pruner", "autoprune", "fastv"])
def test_an_answer_that_ends_early_leaves_the_model_as_it_was(
    served: Served, asked: list[tuple[Image.Image, str]], strategy: str
) -> None:
    """Compiled, plain, and between layers."""
    body = {"model": "embedded", "messages": said(asked[0][1], url(asked[0][0])), **pruned(strategy, 64)}
    request = chat_request(json.dumps(body).encode(), model="embedded", strategy="random", keep=1, limits=LIMITS)

    def enough(piece: str) -> None:
        raise ConnectionError(piece)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotCompiledWarning)  # AutoPrune's counts are its own
        assert isinstance(served.engine.submit(request, enough).exception(600), ConnectionError)
    assert "generate" not in vars(served.model)
    assert served.engine.submit(request_of(served, asked[1])).result(600).text == served.attached(
        *asked[1], "mi-pruner", 64
    )


def request_of(served: Served, job: tuple[Image.Image, str]) -> ChatRequest:
    body = {"model": "embedded", "messages": said(job[1], url(job[0])), "max_tokens": 8}
    return chat_request(json.dumps(body).encode(), model="embedded", strategy="mi-pruner", keep=64, limits=LIMITS)


@pytest.mark.parametrize("pieces", [0, 1])
def test_a_fault_of_ours_is_told_to_the_log_alone(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, pieces: int
) -> None:
    """Before the first piece it is the status; after it, an event that stock clients raise."""

    def broken(request: Any, heard: Any) -> Any:
        for _ in range(pieces):
            heard("two")
        raise RuntimeError("secret")

    monkeypatch.setattr(served.engine, "_answer", broken)
    got = []

    def listen() -> None:
        for chunk in served.ask(GREY, "what ?", stream=True):
            got.append(chunk.choices[0].delta.content)  # what came before the fault stays

    with pytest.raises(openai.APIError, match="the server failed; its log says why"):
        listen()
    assert got == ["", "two"][: 2 * pieces]
    assert "secret" in caplog.text
    with pytest.raises(openai.InternalServerError) as told:
        served.ask(GREY, "what ?")
    assert "secret" not in str(told.value)

"""Load the demo server on the loopback: requests a second, waiting times, and whether answers get mixed up.

    python -m experiments.serving.load --out experiments/serving/results/load.json

Starts ``tokenprune serve`` as a user would, sends it questions about painted scenes with the stock client of OpenAI's
interface, a thread a client, each with the next question as soon as it has its answer; and holds every answer to that
of ``attach``. Ends after ``--requests`` requests for each row.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import openai
import torch
import transformers
from PIL import Image

import tokenprune as tp
from tokenprune.data.scenes import scene
from tokenprune.hf.chat import prompt_inputs
from tokenprune.zoo.loading import load_model

NEW = 8
"""Tokens of an answer at most."""

Job = tuple[Image.Image, str]


@contextmanager
def server(*options: str) -> Iterator[str]:
    """The address of a server that runs meanwhile."""
    command = [sys.executable, "-m", "tokenprune", "serve", "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        assert process.stdout is not None
        found = None
        while found is None:
            if not (line := process.stdout.readline()):
                raise RuntimeError(f"the server ended with exit code {process.wait()} before it listened")
            found = re.search(r"http://[\w.]+:\d+/v1", line)
        yield found[0]
    finally:
        process.terminate()
        process.wait(60)


def questions(number: int) -> list[Job]:
    """A question about each of so many scenes."""
    scenes = [scene(11, i) for i in range(number)]
    return [(one.image, one.questions[i % len(one.questions)].text) for i, one in enumerate(scenes)]


def body(job: Job) -> list[dict[str, Any]]:
    """The messages of a question."""
    file = io.BytesIO()
    job[0].save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    return [
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": job[1]}],
        }
    ]


def attached(model: Any, processor: Any, job: Job, strategy: str, keep: int | float) -> str:
    """What the library answers without a server."""
    inputs = prompt_inputs(processor, [job[0]], [job[1]]).to(model.device)
    with torch.no_grad(), tp.attach(model, strategy, keep, processor=processor):
        out = model.generate(**inputs, max_new_tokens=NEW, do_sample=False)
    return str(processor.tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


def measured(
    client: openai.OpenAI, name: str, jobs: Sequence[Job], clients: int, strategy: str, keep: int | float
) -> tuple[dict[str, Any], list[str]]:
    """A row of the table, and the answers."""
    sent = [body(job) for job in jobs]

    def ask(messages: Any) -> tuple[str, float, float]:
        begun = time.perf_counter()
        first, text = None, ""
        extra = {"tokenprune": {"strategy": strategy, "keep": keep}}
        stream = client.chat.completions.create(
            model=name, messages=messages, max_tokens=NEW, stream=True, extra_body=extra
        )
        for chunk in stream:
            piece = chunk.choices[0].delta.content
            if piece and first is None:
                first = time.perf_counter() - begun
            text += piece or ""
        return text, first or 0.0, time.perf_counter() - begun

    ask(sent[0])  # what is made once for a budget
    begun = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        got = list(pool.map(ask, sent))
    seconds = time.perf_counter() - begun
    whole = [one[2] for one in got]
    row = {
        "clients": clients,
        "strategy": strategy,
        "keep": keep,
        "requests": len(jobs),
        "requests_per_second": len(jobs) / seconds,
        "first_piece_p50": float(np.percentile([one[1] for one in got], 50)),
        "p50": float(np.percentile(whole, 50)),
        "p99": float(np.percentile(whole, 99)),
    }
    return row, [one[0] for one in got]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--clients", default="1,4,16")
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--strategy", default="mi-pruner")
    parser.add_argument("--keeps", default="1.0,64")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    keeps = [float(one) if "." in one else int(one) for one in given.keeps.split(",")]
    jobs = questions(given.requests)
    subject = ("--model", given.model, "--device", given.device, "--dtype", given.dtype)
    rows, answers = [], []
    load_before = os.getloadavg()
    with server(*subject) as address, openai.OpenAI(base_url=address, api_key="none", max_retries=0) as client:
        for keep in keeps:
            for clients in map(int, given.clients.split(",")):
                row, texts = measured(client, given.model, jobs, clients, given.strategy, keep)
                rows.append(row)
                answers.append(texts)
    model, processor = load_model(given.model, given.device, given.dtype)
    wanted = {keep: [attached(model, processor, job, given.strategy, keep) for job in jobs] for keep in keeps}
    print("| clients | kept | requests/s | first piece p50 | p50 | p99 | other answers than attach |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for row, texts in zip(rows, answers, strict=True):
        row["other_answers"] = sum(a != b for a, b in zip(texts, wanted[row["keep"]], strict=True))
        kept = "all" if row["keep"] == 1.0 and isinstance(row["keep"], float) else row["keep"]
        times = " | ".join(f"{row[name] * 1000:,.0f} ms" for name in ("first_piece_p50", "p50", "p99"))
        speed = f"{row['requests_per_second']:.1f}"
        print(f"| {row['clients']} | {kept} | {speed} | {times} | {row['other_answers']} of {row['requests']} |")
    machine = {
        "model": given.model,
        "device": torch.cuda.get_device_name() if given.device.startswith("cuda") else given.device,
        "dtype": given.dtype,
        "cores": os.cpu_count(),
        "load_before": load_before,
        "load_after": os.getloadavg(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    if given.out is not None:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

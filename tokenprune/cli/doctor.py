"""``tokenprune doctor``: prove that pruning takes place on a model, and that it is right."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tokenprune.cli.console import print_table
from tokenprune.cli.options import words_or_all

if TYPE_CHECKING:
    from tokenprune.core.budget import Unit
    from tokenprune.diagnostics.doctor import Diagnosis

__all__ = ["doctor"]


def doctor(
    model: Annotated[
        str,
        typer.Option(help="'tiny', 'tiny:MODEL_TYPE', 'embedded', 'embedded-qwen', 'embedded-video', folder, hub."),
    ] = "tiny",
    strategy: Annotated[
        list[str] | None,
        typer.Option("--strategies", "--strategy", help="Names, comma-separated; by default all that can run."),
    ] = None,
    keep: Annotated[
        int | None, typer.Option(help="Visual tokens kept of each image; 64, or a quarter if one has no more.")
    ] = None,
    question: Annotated[str, typer.Option(help="What is asked about the picture.")] = "what color is the dog ?",
    image: Annotated[str | None, typer.Option(help="A picture; painted rectangles by default.")] = None,
    device: Annotated[str, typer.Option()] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    trust_remote_code: Annotated[bool, typer.Option(help="Run code that comes with a checkpoint.")] = False,
    families: Annotated[
        bool, typer.Option("--families", help="Instead of one model, a tiny one of every family that ships: a table.")
    ] = False,
    questions: Annotated[
        bool, typer.Option("--questions", help="See which words count in prompts of many kinds, and do nothing else.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Run a prompt with and without pruning: tokens before and after, and the laws that pruning must keep."""
    from rich.markup import escape
    from rich.table import Table

    from tokenprune.core.errors import TokenPruneError
    from tokenprune.core.registry import build
    from tokenprune.data.images import open_image
    from tokenprune.diagnostics.doctor import broken_line, diagnose
    from tokenprune.hf.adapters.base import adapter_for
    from tokenprune.hf.chat import prompt_inputs, words_of
    from tokenprune.hf.cost import layer_average
    from tokenprune.hf.sources import usable_strategies
    from tokenprune.testing.registered import fault
    from tokenprune.zoo.loading import load_model

    if families:
        _families(strategy, as_json)
        return
    loaded, processor = load_model(model, device, dtype, trust_remote_code=trust_remote_code)
    if questions:
        raise typer.Exit(_questions(loaded, processor, as_json=as_json))
    inputs = prompt_inputs(processor, [open_image(image)], [question]).to(device)
    strategy = [name for text in strategy or () for name in words_or_all("--strategies", text) or ()]
    names = strategy or usable_strategies(adapter_for(loaded))
    clip, unit = _clip(model, loaded)
    if clip is None and not strategy:
        of_frames = [name for name in names if "frames" in build(name).requires]
        names = [name for name in names if name not in of_frames]
        if of_frames:
            typer.echo(
                f"left out, because they compare frames and what is shown is a picture: {', '.join(of_frames)}",
                err=True,
            )
    found, broken = [], []
    for name in names:
        if (wrong := fault(name)) is not None:
            broken.append(wrong)
        try:
            filmed = clip is not None and "frames" in build(name).requires
            shown = clip if filmed else inputs
            budget = _usual_budget(loaded, shown) if keep is None else keep
            found.append(diagnose(loaded, processor, name, budget, shown, unit=unit if filmed else None))
        except (Exception, SystemExit) as error:
            # a mistake in the command, or in the only strategy that was asked for, is an error like any other
            if isinstance(error, TokenPruneError) and strategy:
                raise
            broken.append(broken_line(name, error))
    prompt = words_of(loaded, processor, inputs)
    if as_json:
        told = [{"counts": counts, "tokens": tokens} for counts, tokens in prompt]
        report = {"model": model, "prompt": told, "diagnoses": [f.as_dict() for f in found], "broken": broken}
        typer.echo(json.dumps(report, indent=1))
    else:
        if model.partition(":")[0] == "tiny":
            typer.echo(f"model {model!r} has random weights: it proves that pruning is wired up, not that it is good")
        typer.echo(f"counts as the question: {_shown(prompt, True)}")
        typer.echo(f"does not count:         {_shown(prompt, False)}")
        table = Table(
            "strategy", "visual tokens", "layers x tokens", "per layer", "sequence", "answer changes logits by", "laws"
        )
        for f in found:
            laws = ", ".join(
                f"{name} {'ok' if law.holds else 'BROKEN'} ({law.error:.1e})" for name, law in f.laws.items()
            )
            table.add_row(
                escape(f.strategy),
                f"{f.tokens_before} -> {f.tokens_after}",
                _runs(f.layer_tokens),
                f"{layer_average(f.layer_tokens):.1f}",
                f"{f.sequence_before} -> {f.sequence_after}",
                f"{f.change:.3g}",
                laws,
            )
        print_table(table, ("layers x tokens", "sequence", "per layer"))
    for f in found:
        if not f.healthy:
            typer.echo(_trouble(f), err=True)
    for line in broken:
        typer.echo(line, err=True)
    if broken or not all(f.healthy for f in found):
        raise typer.Exit(1)


def _questions(model: Any, processor: Any, *, as_json: bool) -> int:
    """Print, by kind of prompt, how often exactly the user's words count; the exit status."""
    from rich.table import Table

    from tokenprune.diagnostics.asked import KINDS
    from tokenprune.diagnostics.questions import read_questions
    from tokenprune.hf.adapters.base import adapter_for

    adapter = adapter_for(model)
    found = list(read_questions(processor, adapter.image_token_ids, adapter.special_ids))
    if not found:
        typer.echo("this model's tokenizer knows too few words to write any of the prompts", err=True)
        return 1
    if as_json:
        typer.echo(json.dumps([vars(one) for one in found], indent=1))
    else:
        table = Table("kind of prompt", "exactly the user's words count", "guesses, which warn")
        for kind in KINDS:
            if several := [one for one in found if one.kind == kind]:
                right, warned = (
                    sum(good) for good in zip(*((not o.wrong, bool(o.warned)) for o in several), strict=True)
                )
                table.add_row(kind, f"{right} of {len(several)}", str(warned))
        print_table(table, ())
    for one in found:
        if one.wrong:
            typer.echo(f"{one.name}, read by the {one.reader}: {one.wrong}", err=True)
    return int(any(one.wrong for one in found))


def _shown(prompt: Sequence[tuple[bool, Sequence[str]]], counts: bool) -> str:
    """Tokens that count or do not, as they are between bars, newlines written out."""
    stretches = ("|".join(tokens) for counted, tokens in prompt if counted == counts)
    return " ... ".join(stretches).replace("\n", "\\n") or "nothing"


def _trouble(found: Diagnosis) -> str:
    """Why a diagnosis is not healthy, in a line."""
    broken = [name for name, law in found.laws.items() if not law.holds]
    if broken:
        return f"{found.strategy}: broken: {', '.join(broken)}"
    return (
        f"{found.strategy}: nothing was pruned: {found.tokens_after} of {found.tokens_before} visual tokens are left; "
        "give a smaller --keep"
    )


def _clip(name: str, model: Any) -> tuple[Any, Unit | None]:
    """A prompt that shows a video, and its unit, where a tiny model reads any: what compares frames is tried on it."""
    from tokenprune.diagnostics.matrix import video_of
    from tokenprune.zoo.loading import TINY

    filmed = video_of(model, name.removeprefix(TINY)) if name.startswith(TINY) else None
    return (None, None) if filmed is None else filmed


def _families(strategy: Sequence[str] | None, as_json: bool) -> None:
    """Strategies by families: ok, BROKEN or refused, and why."""
    import warnings
    from dataclasses import asdict

    from rich.markup import escape
    from rich.table import Table

    from tokenprune.core.errors import SubstituteWarning
    from tokenprune.core.registry import list_strategies
    from tokenprune.diagnostics.matrix import matrix
    from tokenprune.zoo.tiny import FAMILIES

    names = [name for text in strategy or () for name in words_or_all("--strategies", text) or ()] or list_strategies()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SubstituteWarning)
        cells = list(matrix(list(FAMILIES), names))
    if as_json:
        typer.echo(json.dumps([asdict(cell) for cell in cells], indent=1))
    else:
        table = Table("strategy", *FAMILIES)
        for name in names:
            table.add_row(escape(name), *(cell.short for cell in cells if cell.strategy == name))
        print_table(table, ())
        for why in sorted({f"{cell.strategy}: - {cell.refused}" for cell in cells if cell.refused}):
            typer.echo(why)
    broken = [cell for cell in cells if cell.wrong]
    for cell in broken:
        typer.echo(f"{cell.strategy} on {cell.family}: {cell.wrong}", err=True)
    if broken:
        raise typer.Exit(1)


def _usual_budget(model: Any, inputs: Any) -> int | float:
    """64 tokens of each image, or a quarter where an image (or tile, where tiles stand apart) has no more."""
    import torch

    from tokenprune.hf.attach import attach

    with torch.no_grad(), attach(model, "random", 1.0) as run:
        model(**inputs)
    return 64 if min(len(places) for places in run.history[-1].places) > 64 else 0.25


def _runs(counts: Sequence[int]) -> str:
    """Name layers with equally many tokens together; the middle of a long list is left out."""
    runs = [f"{len(list(layers))} x {count}" for count, layers in groupby(counts)]
    return ", ".join(runs if len(runs) <= 5 else [*runs[:3], "...", runs[-1]])

"""``tokenprune show``: what strategies leave of a picture, and what the model then answers."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tokenprune.cli.data import DataOptions
from tokenprune.cli.groups import Without, grouped
from tokenprune.cli.options import MODEL, STRATEGIES, numbers, words_or_all
from tokenprune.cli.subject import found, subject

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["show"]


@grouped
def show(
    image: Annotated[
        str,
        typer.Argument(
            metavar="IMAGE",
            help="A picture, a painted scene (scene:SEED/INDEX, natural:SEED/INDEX), or a question's id of --data.",
        ),
    ],
    question: Annotated[
        str | None, typer.Argument(metavar="QUESTION", help="About the picture; a scene knows some itself.")
    ] = None,
    strategies: Annotated[str, typer.Option(help=STRATEGIES)] = ("mi-pruner,mi-attention,sparsevlm,vispruner"),
    budgets: Annotated[str, typer.Option(help="Visual tokens kept, comma-separated.")] = "192,64",
    model: Annotated[str | None, typer.Option(help=MODEL)] = None,
    out: Annotated[Path, typer.Option(help="Picture to write; the ending decides the format.")] = Path("show.png"),
    device: Annotated[str, typer.Option()] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 8,
    side: Annotated[int, typer.Option(min=32, max=2048, help="Pixels along the side of each picture.")] = 240,
    *,
    data: Annotated[DataOptions, Without("skip_unreadable", "max_new_tokens", "frames")],
    trust_remote_code: Annotated[bool, typer.Option(help="Run code that comes with a checkpoint.")] = False,
) -> None:
    """Draw which patches each strategy keeps at each budget, with the model's answer under each."""
    from tokenprune.core.errors import ConfigError
    from tokenprune.core.registry import build
    from tokenprune.data.items import default_model, notes_on
    from tokenprune.evaluation.conditions import strategy_names
    from tokenprune.report.pruning import look, pruning_sheet
    from tokenprune.results.team import Team
    from tokenprune.zoo.loading import load_model

    team = Team.from_environment()
    if not team.leads:  # one picture is no work to share: under a launcher the first process draws it
        return
    _check_out(out, image)
    keeps = numbers("--budgets", budgets)
    built = [build(name) for name in strategy_names(words_or_all("--strategies", strategies))]
    if data.data is None:
        picture, asked, others = subject(image, question)
    else:
        if question is not None:
            raise ConfigError("QUESTION is not taken with --data: it is that of the id given as IMAGE")
        table = data.questions(families=None, limit=None, seed=0)
        picture, asked, others = found(table.items, image)
    name = default_model(model)
    loaded, processor = load_model(name, team.device(device), dtype, trust_remote_code=trust_remote_code)
    for note in notes_on(name):
        typer.echo(note)
    text = asked if isinstance(asked, str) else asked.text
    shown = None if isinstance(asked, str) else asked.prompt
    looked = look(loaded, processor, picture, text, built, keeps, max_new_tokens, prompt=shown)
    if isinstance(asked, str):
        drawn = pruning_sheet(looked, text, side=side)
    else:
        title = f"{image}, {asked.family}/{asked.subfamily}: {text} (right answer: {asked.answer})"
        drawn = pruning_sheet(looked, title, asked, side)
    _save(drawn, out)
    typer.echo(f"full: {looked.full.answer}")
    for row in looked.views:
        for view in row:
            typer.echo(f"{view.strategy} at {view.keep}: {view.answer}")
    if others:
        hint = " (give one as QUESTION, or its type)" if data.data is None else ""
        typer.echo(f"\nother questions about this picture{hint}:")
        for other in others:
            typer.echo(f"  {other.family}/{other.subfamily}: {other.text}  {other.answer}")
    typer.echo(f"\n{out}")


def _save(drawn: Image.Image, out: Path) -> None:
    """Write a picture whole or not at all: what was there before stays if it fails."""
    from PIL import Image

    from tokenprune.core.errors import ConfigError

    part = out.with_name(out.name + ".part")
    try:
        drawn.save(part, format=Image.registered_extensions()[out.suffix.lower()])
        os.replace(part, out)
    except (OSError, ValueError) as error:
        part.unlink(missing_ok=True)
        raise ConfigError(f"--out {str(out)!r} cannot be written: {error}") from error


def _check_out(out: Path, image: str) -> None:
    """Refuse what could not or should not be written before any work is done."""
    from PIL import Image

    from tokenprune.core.errors import ConfigError

    known = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.SAVE}
    if out.suffix.lower() not in known:
        raise ConfigError(f"--out {str(out)!r}: the ending must name a picture format, e.g. .png")
    if out.is_dir() or not out.parent.is_dir():
        raise ConfigError(f"--out {str(out)!r}: {'a folder' if out.is_dir() else 'its folder does not exist'}")
    if out.exists() and Path(image).exists() and out.samefile(image):
        raise ConfigError(f"--out {str(out)!r} is IMAGE itself, which would be lost; give another name")
    try:
        with tempfile.TemporaryDirectory(dir=out.parent) as folder:
            # some formats hold no colours
            Image.new("RGB", (64, 64)).save(Path(folder) / out.name)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--out {str(out)!r} cannot be written: {error}") from error

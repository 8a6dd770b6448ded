"""``tokenprune explore``: a page to look into what strategies keep of a picture and why."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tokenprune.cli.options import STRATEGIES, numbers, words_or_all
from tokenprune.cli.subject import is_scene, subject

if TYPE_CHECKING:
    from PIL import Image

    from tokenprune.data.items import Question

__all__ = ["explore"]

USUAL = "mi-pruner,mi-attention,divprune,cdpruner,visionzip,sparsevlm,random"


def explore(
    image: Annotated[
        str,
        typer.Argument(
            metavar="IMAGE",
            help="A picture file, a folder of pictures, or a painted scene: scene:SEED/INDEX, natural:SEED/INDEX.",
        ),
    ],
    question: Annotated[
        str | None, typer.Argument(metavar="QUESTION", help="About the picture; a scene knows some itself.")
    ] = None,
    strategies: Annotated[
        str | None,
        typer.Option(
            help=f"{STRATEGIES} By default those of {USUAL.replace(',', ', ')} that the model has the signals for."
        ),
    ] = None,
    budgets: Annotated[
        str, typer.Option(help="Visual tokens kept, comma-separated: where the model is asked.")
    ] = "192,128,64,32,16",
    model: Annotated[str | None, typer.Option(help="'embedded', 'embedded-qwen', 'tiny', folder or hub id.")] = None,
    out: Annotated[Path, typer.Option(help="Page to write.")] = Path("explore.html"),
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 8,
    trust_remote_code: Annotated[bool, typer.Option(help="Run code that comes with a checkpoint.")] = False,
) -> None:
    """Write one HTML page that replays, at every budget, which patches strategies keep and why; it works offline."""
    from tokenprune.core.registry import build
    from tokenprune.data.items import default_model, notes_on
    from tokenprune.evaluation.compare import environment
    from tokenprune.evaluation.conditions import strategy_names
    from tokenprune.hf.adapters.base import adapter_for
    from tokenprune.hf.support import usable_strategies
    from tokenprune.report.explorer import explore as look_into
    from tokenprune.report.explorer import write_explorer
    from tokenprune.zoo.loading import load_model

    _check_out(out)
    keeps = numbers("--budgets", budgets)
    names = None if strategies is None else strategy_names(words_or_all("--strategies", strategies))
    for spec in names or ():
        build(spec)  # misspelt ones are told before a model is loaded
    asked = _subjects(image, question)
    name = model or default_model()
    loaded, processor = load_model(name, device, dtype, trust_remote_code=trust_remote_code)
    if names is None:
        usable = set(usable_strategies(adapter_for(loaded)))
        names = [one for one in USUAL.split(",") if one in usable]
    notes = notes_on(name)
    found = []
    for title, picture, one in asked:
        typer.echo(f"{title}: {len(names)} strategies at {len(keeps)} budgets", err=True)
        found.append(
            look_into(loaded, processor, picture, one, names, keeps, name=title, max_new_tokens=max_new_tokens)
        )
    words = ["tokenprune", "explore", image if is_scene(image) else Path(image).name]
    words += [question] if question else []
    words += ["--strategies", ",".join(map(str, names)), "--budgets", budgets, "--model", name]
    facts = {"command": shlex.join(words)} | environment(name, device, dtype, 0)
    facts.pop("seed")  # nothing is drawn here but what a strategy draws itself
    for note in notes:
        typer.echo(note)
    write_explorer(out, found, facts, notes)
    typer.echo(f"{out} ({out.stat().st_size / 2**20:.1f} MiB)")


def _subjects(image: str, question: str | None) -> list[tuple[str, Image.Image, Question | str]]:
    """Title, picture and question of each page."""
    from PIL import Image

    from tokenprune.core.errors import ConfigError

    if is_scene(image) or not Path(image).is_dir():
        picture, asked, _ = subject(image, question)
        return [(image if is_scene(image) else Path(image).name, picture, asked)]
    endings = Image.registered_extensions()
    files = sorted(file for file in Path(image).iterdir() if file.suffix.lower() in endings and file.is_file())
    if not files:
        raise ConfigError(f"IMAGE {image!r} is a folder that holds no picture; endings known: .png, .jpg, .webp, ...")
    return [(file.name, *subject(str(file), question)[:2]) for file in files]


def _check_out(out: Path) -> None:
    """Refuse what could not be written before any work is done."""
    from tokenprune.core.errors import ConfigError

    if out.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--out {str(out)!r}: the page is HTML; give a name that ends in .html")
    if out.is_dir() or not out.parent.is_dir():
        raise ConfigError(f"--out {str(out)!r}: {'a folder' if out.is_dir() else 'its folder does not exist'}")

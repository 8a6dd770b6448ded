"""``tokenprune explore``: a page to look into what strategies keep of a picture and why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tokenprune.cli.options import MODEL, STRATEGIES, command_line, numbers, words_or_all
from tokenprune.cli.subject import is_scene, subject

if TYPE_CHECKING:
    from PIL import Image

    from tokenprune.data.items import Question

__all__ = ["explore"]

USUAL = "mi-pruner,mi-attention,divprune,cdpruner,visionzip,sparsevlm,random"


def explore(
    context: typer.Context,
    image: Annotated[
        str,
        typer.Argument(
            metavar="IMAGE",
            help="A picture file, a folder of pictures, a painted scene (scene:SEED/INDEX, natural:SEED/INDEX), a film "
            "or an animated picture (.mp4, .gif, .webp), which is shown as a video.",
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
    video: Annotated[
        bool, typer.Option("--video", help="The folder's pictures, by name, are a video's frames.")
    ] = False,
    frames: Annotated[int, typer.Option(min=1, help="Frames taken of a video, at equal distances.")] = 8,
    model: Annotated[str | None, typer.Option(help=MODEL)] = None,
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
    from tokenprune.hf.sources import usable_strategies
    from tokenprune.report.explorer import explore as look_into
    from tokenprune.report.explorer import write_explorer
    from tokenprune.zoo.loading import load_model

    _check_out(out)
    keeps = numbers("--budgets", budgets)
    names = None if strategies is None else strategy_names(words_or_all("--strategies", strategies))
    for spec in names or ():
        build(spec)  # misspelt ones are told before a model is loaded
    asked = _film(image, question, frames) if _is_film(image, video) else _subjects(image, question)
    name = default_model(model)
    loaded, processor = load_model(name, device, dtype, trust_remote_code=trust_remote_code)
    if names is None:
        usable = set(usable_strategies(adapter_for(loaded)))
        names = [one for one in USUAL.split(",") if one in usable]
    notes = notes_on(name)
    found = []
    for title, picture, one in asked:
        what = "" if not isinstance(picture, list) else f"{len(picture)} frames, "
        typer.echo(f"{title}: {what}{len(names)} strategies at {len(keeps)} budgets", err=True)
        found.append(
            look_into(loaded, processor, picture, one, names, keeps, name=title, max_new_tokens=max_new_tokens)
        )
    facts = {"command": command_line(context)} | environment(name, device, dtype, 0)
    facts.pop("seed")  # nothing is drawn here but what a strategy draws itself
    for note in notes:
        typer.echo(note)
    write_explorer(out, found, facts, notes)
    typer.echo(f"{out} ({out.stat().st_size / 2**20:.1f} MiB)")


Asked = tuple[str, "Image.Image | list[Image.Image]", "Question | str"]
"""Title; a picture or the frames of a video; the question."""


def _is_film(image: str, video: bool) -> bool:
    """Whether IMAGE is a video: a folder that is said to be one, or a picture that moves."""
    from tokenprune.core.errors import ConfigError
    from tokenprune.data.video import VIDEO_ENDINGS, is_animated

    path = Path(image)
    if path.suffix.lower() in VIDEO_ENDINGS and not path.is_dir() and path.suffix.lower() != ".gif":
        return True
    if video and not path.is_dir():
        raise ConfigError(f"IMAGE {image!r}: --video takes a folder of frames")
    return video or (path.is_file() and is_animated(path))


def _film(image: str, question: str | None, most: int) -> list[Asked]:
    """One page about a video."""
    from tokenprune.core.errors import ConfigError
    from tokenprune.data.video import open_video

    if not (question or "").strip():
        raise ConfigError("QUESTION is missing: what shall be asked about the video?")
    path = Path(image)
    shown = open_video(_pictures(path) if path.is_dir() else path, most, repeat=False).frames
    return [(path.name, list(shown), str(question))]


def _subjects(image: str, question: str | None) -> list[Asked]:
    """Title, picture and question of each page."""
    if is_scene(image) or not Path(image).is_dir():
        picture, asked, _ = subject(image, question)
        return [(image if is_scene(image) else Path(image).name, picture, asked)]
    return [(file.name, *subject(str(file), question)[:2]) for file in _pictures(Path(image))]


def _pictures(folder: Path) -> list[Path]:
    """Files of a folder that are pictures, by name."""
    from PIL import Image

    from tokenprune.core.errors import ConfigError

    endings = Image.registered_extensions()
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in endings and file.is_file())
    if not files:
        raise ConfigError(
            f"IMAGE {str(folder)!r} is a folder that holds no picture; endings known: .png, .jpg, .webp, ..."
        )
    return files


def _check_out(out: Path) -> None:
    """Refuse what could not be written before any work is done."""
    from tokenprune.core.errors import ConfigError

    if out.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--out {str(out)!r}: the page is HTML; give a name that ends in .html")
    if out.is_dir() or not out.parent.is_dir():
        raise ConfigError(f"--out {str(out)!r}: {'a folder' if out.is_dir() else 'its folder does not exist'}")

"""``tokenprune serve``: a model behind OpenAI's interface, each request with a strategy and a budget of its own."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["serve"]


def serve(
    model: Annotated[str | None, typer.Option(help="'embedded', 'tiny', a folder or a hub id.")] = None,
    strategy: Annotated[str, typer.Option(help="Where a request names none, as mi-pruner:lam=0.3.")] = "mi-pruner",
    keep: Annotated[
        str,
        typer.Option(help="Visual tokens kept of each picture, or a ratio with a point, where a request says none."),
    ] = "64",
    host: Annotated[str, typer.Option(help="Address to listen on; there are no passwords.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one, and prints it.")] = 8000,
    device: Annotated[str, typer.Option()] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    backend: Annotated[str, typer.Option(help="graphs, inductor or none, as in tokenprune.compile.")] = "graphs",
    picture_bytes: Annotated[int, typer.Option(min=1, help="Largest file of a picture.")] = 10 * 2**20,
    picture_pixels: Annotated[
        int, typer.Option(min=1, help="Largest picture; larger ones are not decoded.")
    ] = 20_000_000,
    pictures: Annotated[int, typer.Option(min=1, help="Most pictures in a request.")] = 8,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer that may be asked for.")] = 512,
    waiting: Annotated[int, typer.Option(min=1, help="Longest queue; requests beyond it are sent away.")] = 64,
    trust_remote_code: Annotated[bool, typer.Option(help="Run code that comes with a checkpoint.")] = False,
) -> None:
    """Serve chat completions over HTTP: for trying and for measuring, on a machine of your own."""
    import socket
    from typing import cast, get_args

    from tokenprune.core.errors import ConfigError, UnsupportedError, closest
    from tokenprune.core.registry import build
    from tokenprune.data.items import default_model
    from tokenprune.hf.compiled.programs import Backend
    from tokenprune.serving.engine import Engine
    from tokenprune.serving.request import Limits
    from tokenprune.zoo.loading import load_model

    try:
        import uvicorn

        from tokenprune.serving.app import serving_app
    except ImportError as error:
        raise UnsupportedError(
            f"serve needs packages of its own ({error.name}): pip install 'tokenprune-vlm[serve]'"
        ) from error
    if backend not in get_args(Backend):
        raise ConfigError(f"--backend: no {backend!r}; {closest(backend, get_args(Backend))}")
    default = _budget(keep)
    build(strategy)  # no such strategy is said before a model is loaded
    limits = Limits(
        # base64 takes four letters for three bytes
        body_bytes=picture_bytes * pictures * 4 // 3 + 2**20,
        picture_bytes=picture_bytes,
        picture_pixels=picture_pixels,
        pictures=pictures,
        tokens=max_tokens,
        waiting=waiting,
    )
    name = default_model(model)
    loaded, processor = load_model(name, device, dtype, trust_remote_code=trust_remote_code)
    engine = Engine(loaded, processor, waiting=limits.waiting, backend=cast(Backend, backend))
    try:
        app = serving_app(engine, name=name, strategy=strategy, keep=default, limits=limits)
        listening = socket.create_server((host, port))
        typer.echo(f"{name} at http://{host}:{listening.getsockname()[1]}/v1 (model={name!r})")
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])
    finally:
        engine.close()


def _budget(text: str) -> int | float:
    """A count, or a ratio with a point."""
    from tokenprune.core.errors import ConfigError

    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        raise ConfigError(f"--keep must be a count (64) or a ratio (0.25), got {text!r}") from None

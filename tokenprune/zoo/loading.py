"""Models by name: a folder or hub id, or one of those that need no download."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from tokenprune.core.errors import ConfigError, UnsupportedError, closest
from tokenprune.hf.adapters.base import adapter_for

__all__ = ["BUILT_IN", "DTYPES", "check_named", "check_weights", "load_model", "usable_device"]

BUILT_IN = ("tiny", "tiny:MODEL_TYPE", "embedded", "embedded-qwen", "embedded-video")
"""``tiny``: a LLaVA of random weights, built in code, with 576 visual tokens an image. ``tiny:MODEL_TYPE``: a smaller
model of any family (``tiny:qwen2_5_vl``). ``embedded``: the small trained LLaVA among the package data;
``embedded-qwen``: the small Qwen3-VL; ``embedded-video``: one that sees clips."""

_SHIPPED = {
    "embedded": "tokenprune.zoo.embedded",
    "embedded-qwen": "tokenprune.zoo.embedded_qwen",
    "embedded-video": "tokenprune.zoo.embedded_video",
}
"""Models among the package data, and what loads them."""

TINY = "tiny:"
"""Before the model type of a tiny model."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def usable_device(name: str) -> torch.device:
    """Look a device up and compute something on it.

    Raises
    ------
    ConfigError
        No such device, or none that holds numbers here; says why.
    """
    try:
        tried = torch.zeros(1, device=name)
        tried.item()  # the meta device makes tensors that hold nothing
    except (RuntimeError, AssertionError, ImportError) as error:
        raise ConfigError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}") from error
    return tried.device


def check_named(name: str) -> None:
    """Raise ``ConfigError`` where a model's name is empty: nobody meant the default by that."""
    if not name.strip():
        raise ConfigError(f"model {name!r}: give one of {', '.join(BUILT_IN)}, a folder or a hub id")


def load_model(
    name: str, device: str = "cpu", dtype: str = "float32", *, trust_remote_code: bool = False
) -> tuple[Any, Any]:
    """Load a model and its processor, ready to generate.

    Parameters
    ----------
    name : str
        One of :data:`BUILT_IN`, as ``tiny`` or ``tiny:gemma3``; a folder saved by ``save_pretrained``, or a hub id.
    device : str, default "cpu"
        "auto" spreads a checkpoint over all devices that are free and the host's memory, by accelerate.
    dtype : str, default "float32"
        One of :data:`DTYPES`.
    trust_remote_code : bool, default False
        Whether code that comes with a checkpoint may run.

    Returns
    -------
    model : PreTrainedModel
    processor : ProcessorMixin

    Raises
    ------
    ConfigError
        The device cannot be used here, or no such dtype.
    UnsupportedError
        Nothing by that name can be loaded, its model type has no adapter, or its processor needs a package that is
        not installed; or the checkpoint does not fill the model: weights are missing, of other shapes, or no numbers.
    UnknownNameError
        No tiny model of that type; names those most like it.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"dtype: no {dtype!r}; {closest(dtype, DTYPES)}")
    spread = device == "auto"
    if spread:
        _check_spreads(name)
    else:
        usable_device(device)
    check_named(name)
    if name == "tiny":
        from tokenprune.zoo.tiny import tiny_llava, tiny_processor

        model, processor = tiny_llava(side=24), tiny_processor(side=24)
    elif name.startswith(TINY):
        from tokenprune.zoo.tiny import tiny_model, tiny_processor

        model_type = name.removeprefix(TINY)
        model, processor = tiny_model(model_type), tiny_processor(model_type)
    elif name in _SHIPPED and importlib.util.find_spec(_SHIPPED[name]) is not None:
        model, processor = importlib.import_module(_SHIPPED[name]).load(device, DTYPES[dtype])
    else:
        model, processor = _pretrained(name, DTYPES[dtype], trust_remote_code, spread=spread)
    adapter_for(model)
    check_weights(model, name)
    return model.eval() if spread else model.to(device=device, dtype=DTYPES[dtype]).eval(), processor


def _check_spreads(name: str) -> None:
    if name in BUILT_IN or name.startswith(TINY):
        raise ConfigError(
            f"device 'auto' spreads checkpoints over several devices; {name!r} is small: give 'cpu' or 'cuda'"
        )
    if importlib.util.find_spec("accelerate") is None:
        raise ConfigError("device 'auto' needs the package accelerate: pip install accelerate")


def _pretrained(name: str, dtype: torch.dtype, trust_remote_code: bool, *, spread: bool) -> tuple[Any, Any]:
    looks_like_path = name.startswith((".", "/", "~")) or name.count("/") > 1
    if looks_like_path and not Path(name).expanduser().is_dir():
        raise UnsupportedError(f"model {name!r}: no such folder")
    source = str(Path(name).expanduser()) if looks_like_path else name
    try:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        processor = AutoProcessor.from_pretrained(source, trust_remote_code=trust_remote_code)
        model, told = AutoModelForImageTextToText.from_pretrained(
            source,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
            device_map="auto" if spread else None,
            ignore_mismatched_sizes=True,  # so that all of them are told, by us
        )
    except (OSError, ValueError, KeyError, SafetensorError, ImportError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if isinstance(error, ImportError):
            raise UnsupportedError(f"model {name!r} cannot be loaded: {_missing(reason)}") from error
        raise UnsupportedError(
            f"model {name!r} cannot be loaded: {reason} (built in: {', '.join(BUILT_IN)}; or a folder, or a hub id)"
        ) from error
    _check_filled(name, model, told)
    return model, processor


def _missing(reason: str) -> str:
    """What to do about a package that a processor imports and that is not there, or not the one that fits."""
    try:
        importlib.import_module("torchvision")
    except ImportError:
        pass
    except Exception as error:  # its operators were built for another torch
        theirs, ours = importlib.metadata.version("torchvision"), torch.__version__
        return (
            f"torchvision {theirs} does not work with torch {ours} ({error}): install both from one index, as in pip "
            "install torch torchvision --index-url https://download.pytorch.org/whl/cpu"
        )
    what = reason.partition(" but it was not found")[0].rstrip(".")
    return (
        f"a package that its processor needs is missing: {what}. pip install '{_distribution()}[models]' brings those "
        "packages"
    )


def _check_filled(name: str, model: Any, told: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that leaves weights as they were drawn: every answer would be noise, and look like one."""
    faults = []
    if missing := sorted(told.get("missing_keys", ())):
        faults.append(f"{len(missing)} weights that its config asks for are not in the checkpoint ({_some(missing)})")
    if wrong := sorted(str(key[0] if isinstance(key, tuple) else key) for key in told.get("mismatched_keys", ())):
        faults.append(f"{len(wrong)} weights are of other shapes than its config says ({_some(wrong)})")
    if errors := [str(error) for error in told.get("error_msgs", ())]:
        faults.append(errors[0].strip().splitlines()[0])
    layers = {key.split(".layers.")[1].split(".")[0] for key in told.get("unexpected_keys", ()) if ".layers." in key}
    if layers:
        faults.append(
            f"the checkpoint has weights for layer {', '.join(sorted(layers))}, which its config does not ask for "
            f"({_some(sorted(told['unexpected_keys']))})"
        )
    if faults:
        raise UnsupportedError(
            f"model {name!r}: {'; '.join(faults)}. {type(model).__name__} would run, and not be the model that was "
            "trained: give a whole checkpoint, with the config that it was saved with"
        )


def check_weights(model: Any, name: str = "") -> None:
    """Refuse a model whose weights are no numbers.

    Raises
    ------
    UnsupportedError
        A weight is NaN or infinite; names it.
    """
    for key, weight in model.named_parameters():
        if weight.is_floating_point() and not weight.is_meta and not bool(torch.isfinite(weight).all()):
            raise UnsupportedError(
                f"model {name or type(model).__name__!r}: {key} holds NaN or infinity: the checkpoint is damaged, or "
                f"too large for {str(weight.dtype).removeprefix('torch.')}; load it in float32 to see which"
            )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _distribution() -> str:
    """The name under which this package was installed."""
    return importlib.metadata.packages_distributions().get("tokenprune", ["tokenprune"])[0]

"""Former name of :mod:`tokenprune.hf.adapters`, for scripts that were written before the folders; goes with 0.2."""

import warnings

from tokenprune.hf.adapters import Block, ModelAdapter, Observation, adapter_for

__all__ = ["Block", "ModelAdapter", "Observation", "adapter_for"]

warnings.warn(
    "tokenprune.models is tokenprune.hf.adapters now; this name goes with 0.2", DeprecationWarning, stacklevel=2
)

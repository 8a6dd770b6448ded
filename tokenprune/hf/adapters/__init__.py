"""Model families: what differs between them, one small adapter each, found by ``config.model_type``."""

from tokenprune.hf.adapters.base import Block, ModelAdapter, Observation, adapter_for

__all__ = ["Block", "ModelAdapter", "Observation", "adapter_for"]

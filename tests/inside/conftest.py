"""The fixtures of the model tests."""

from tests.models.conftest import processor, prompts

__all__ = ["processor", "prompts"]

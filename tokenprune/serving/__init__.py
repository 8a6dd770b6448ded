"""Ways to serve a pruned model: an OpenAI-compatible demo server, and embeddings for servers that take them."""

from tokenprune.serving.embeds import image_embeds
from tokenprune.serving.engine import Answer, BusyError, Engine
from tokenprune.serving.request import ChatRequest, Limits, RequestError, chat_request

__all__ = [
    "Answer",
    "BusyError",
    "ChatRequest",
    "Engine",
    "Limits",
    "RequestError",
    "chat_request",
    "image_embeds",
]

"""What a call will use, guessed before it runs: by its size, never by reading it. Linear in the size, no tokenizer.

A token is taken for 4 bytes of UTF-8 (English prose has about that; code and other scripts have fewer bytes a token
and are settled on what they really used), an image, sound or file for 1,000 tokens, a message for 4 more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateway.call import EMBEDDINGS

if TYPE_CHECKING:
    from gateway.call import Call

BYTES_PER_TOKEN = 4
TOKENS_PER_MESSAGE = 4
TOKENS_PER_MEDIUM = 1_000
_READ = ("messages", "tools", "functions", "response_format", "input")
_MEDIA = frozenset({"image_url", "input_audio", "file"})


def input_tokens(call: Call) -> int:
    """Of everything that the model is given to read; at least 1."""
    size = 0
    tokens = 0
    waiting: list[Any] = [call.body[field] for field in _READ if field in call.body]
    while waiting:
        node = waiting.pop()
        if isinstance(node, str):
            size += len(node) if node.isascii() else len(node.encode())
        elif isinstance(node, dict):
            for name, value in node.items():
                if name in _MEDIA and not isinstance(value, str):
                    tokens += TOKENS_PER_MEDIUM
                else:
                    waiting.append(value)
        elif isinstance(node, list):
            if call.endpoint == EMBEDDINGS and node and isinstance(node[0], int):
                tokens += len(node)  # its items are tokens already
            else:
                waiting.extend(node)
    messages = call.body.get("messages")
    if isinstance(messages, list):
        tokens += TOKENS_PER_MESSAGE * len(messages)
    return max(1, tokens + -(-size // BYTES_PER_TOKEN))


def declared_output_tokens(call: Call) -> int | None:
    """The most that the caller lets the model write, all choices together; None when the request does not say."""
    if call.endpoint == EMBEDDINGS:
        return 0
    declared = call.body.get("max_completion_tokens") or call.body.get("max_tokens")
    return declared * choices(call) if isinstance(declared, int) else None


def choices(call: Call) -> int:
    """Answers that are asked for at once."""
    wanted = call.body.get("n")
    return wanted if isinstance(wanted, int) and wanted > 0 else 1

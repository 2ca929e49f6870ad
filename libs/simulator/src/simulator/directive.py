"""How an answer shall behave, scripted by whoever sends the prompt: `[[sim ttft_ms=200 status=503 times=2]]`.

The directive travels inside the prompt because that is the one thing every hop between a test and its upstream
passes on unchanged.
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from simulator.errors import InvalidRequest

How = Literal["fin", "rst", "stall", "garbage", "end", "done", "html", "error"]
_OPENING = re.compile(r"\[\[sim(?!\w)")
_DIRECTIVE = re.compile(r"\[\[sim((?:\s[^\[\]]*)?)\]\]")


class Behaviour(BaseModel):
    """What one answer does; the same keys are the simulator's settings, where they are the defaults of every answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ttft_ms: float = Field(default=0, ge=0, le=3_600_000)
    """Time to the first token, in ms. Not streamed, the whole answer takes `ttft_ms + (tokens - 1) * itl_ms`."""
    itl_ms: float = Field(default=0, ge=0, le=600_000)
    """Time between two tokens, in ms."""
    tokens: int = Field(default=20, ge=1, le=100_000)
    """Length of a text answer before `max_tokens` and `stop` shorten it."""
    status: int | None = Field(default=None, ge=400, le=599)
    """Answer this error status instead."""
    times: int | None = Field(default=None, ge=0, le=1_000_000)
    """Misbehave for so many attempts of this very prompt, then answer well; without it, misbehave always."""
    retry_after: int | None = Field(default=None, ge=0, le=1_000_000)
    """Seconds in the `Retry-After` header of an error status."""
    cut_after: int | None = Field(default=None, ge=0, le=100_000)
    """Chunks of a stream that are sent before `how` happens; not streamed, 0 means after the headers and anything
    else after half of the body. Without it, `fin`, `rst` and `stall` happen before the status line."""
    usage: bool = True
    """Whether answers tell their usage, when they are asked for it."""
    how: How | None = None
    """fin: the connection is closed; rst: it is reset; stall: silence, until the client leaves; garbage: bytes that
    are neither SSE nor JSON, then a normal end; end: a normal end, but the rest is missing; done: the same behind
    `[DONE]`; html: 200 with a page;
    error: 200 with an error object (in a stream: an error event). `cut_after` alone means fin."""

    def fault(self, attempt: int) -> How | None:
        """What goes wrong with the answer to the given attempt (from 1), an error status aside."""
        if not self.misbehaves(attempt):
            return None
        return self.how or (None if self.cut_after is None else "fin")

    def misbehaves(self, attempt: int) -> bool:
        return self.times is None or attempt <= self.times


def is_in(text: str) -> bool:
    return "[[sim" in text and _OPENING.search(text) is not None


def read(text: str, defaults: Behaviour) -> Behaviour:
    """Read the directive in `text`, over `defaults`. Raises `InvalidRequest` that names what is wrong with it."""
    if not is_in(text):
        return defaults
    openings = _OPENING.findall(text)
    found = _DIRECTIVE.findall(text)
    if len(found) != 1 or len(openings) != 1:
        raise _bad("the prompt must hold exactly one, as in [[sim key=value key=value]]")
    script: dict[str, str] = {}
    for pair in found[0].split():
        key, equals, value = pair.partition("=")
        if not equals or key in script:
            raise _bad(f"{pair}: {'given twice' if equals else 'not a key=value'}")
        script[key] = value
    try:
        return Behaviour.model_validate(defaults.model_dump() | script)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        key = problem["loc"][0]
        raise _bad(f"{key}={script.get(str(key), '')}: {problem['msg']}") from None


def _bad(why: str) -> InvalidRequest:
    return InvalidRequest(f"Bad [[sim …]] directive: {why}", "messages", "bad_directive")

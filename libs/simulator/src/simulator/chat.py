"""A chat request, checked as OpenAI checks it and reduced to what decides the simulated answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from simulator import tokens
from simulator.errors import InvalidRequest
from simulator.schema_instance import UnsatisfiableSchemaError, instance

if TYPE_CHECKING:
    from collections.abc import Mapping

    Body = Mapping[str, Any]

_ROLES = frozenset({"developer", "system", "user", "assistant", "tool", "function"})
_MOST_CHOICES = 128
_MOST_STOPS = 4
_RANGES = (("temperature", 0, 2), ("top_p", 0, 1), ("presence_penalty", -2, 2), ("frequency_penalty", -2, 2))


@dataclass(slots=True)
class ToolCall:
    name: str
    arguments: Any


@dataclass(slots=True)
class Structured:
    """An answer that has to be this value, as JSON."""

    value: Any


@dataclass(slots=True)
class ChatRequest:
    prompt_tokens: int
    last_user_text: str
    stream: bool
    include_usage: bool
    max_tokens: int | None
    n: int
    stop: tuple[str, ...]
    tool_call: ToolCall | None
    structured: Structured | Literal["json_object"] | None


def read(body: Body) -> ChatRequest:
    """Check a request body, the model's name aside. Raises `InvalidRequest` that names the field."""
    prompt_tokens, last_user_text = _read_messages(body.get("messages"))
    for name, low, high in _RANGES:
        _number(body, name, low, high)
    stream = _flag(body, "stream")
    return ChatRequest(
        prompt_tokens=prompt_tokens,
        last_user_text=last_user_text,
        stream=stream,
        include_usage=_include_usage(body, stream=stream),
        max_tokens=_max_tokens(body),
        n=_count(body, "n", _MOST_CHOICES) or 1,
        stop=_stop(body.get("stop")),
        tool_call=_tool_call(body) if body.get("tools") is not None or body.get("tool_choice") is not None else None,
        structured=_structured(body.get("response_format")),
    )


def _read_messages(messages: Any) -> tuple[int, str]:
    """The tokens of all messages, and the text of the last one of role user."""
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest("'messages' must be an array with at least one message.", "messages")
    total = 0
    last_user_text = ""
    for place, message in enumerate(messages):
        if not isinstance(message, dict):
            raise InvalidRequest("A message must be an object.", f"messages[{place}]")
        role = message.get("role")
        if not isinstance(role, str) or role not in _ROLES:
            raise InvalidRequest(f"'role' must be one of {', '.join(sorted(_ROLES))}.", f"messages[{place}].role")
        text = _text(message.get("content"), f"messages[{place}].content")
        total += tokens.count(text)
        if role == "user":
            last_user_text = text
    return total, last_user_text


def _text(content: Any, param: str) -> str:
    """The text of a message's content; parts that are no text (images, audio) count as nothing."""
    if isinstance(content, str):
        return content
    if content is None:
        return ""
    if not isinstance(content, list):
        raise InvalidRequest("'content' must be a string or an array of parts.", param)
    texts = []
    for place, part in enumerate(content):
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            raise InvalidRequest("A content part must be an object with a 'type'.", f"{param}[{place}]")
        if part["type"] == "text":
            if not isinstance(part.get("text"), str):
                raise InvalidRequest("'text' must be a string.", f"{param}[{place}].text")
            texts.append(part["text"])
    return "\n".join(texts)


def _flag(body: Body, name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise InvalidRequest(f"'{name}' must be a boolean.", name)
    return value is True


def _count(body: Body, name: str, most: int = 2**31 - 1) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise InvalidRequest(f"'{name}' must be an integer from 1 to {most}.", name)
    return value


def _number(body: Body, name: str, low: float, high: float) -> None:
    value = body.get(name)
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise InvalidRequest(f"'{name}' must be a number from {low} to {high}.", name)


def _max_tokens(body: Body) -> int | None:
    newer, older = _count(body, "max_completion_tokens"), _count(body, "max_tokens")
    return older if newer is None else newer


def _stop(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    stops = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else ()
    if not 1 <= len(stops) <= _MOST_STOPS or not all(isinstance(stop, str) and stop for stop in stops):
        raise InvalidRequest(f"'stop' must be a string or an array of up to {_MOST_STOPS} strings.", "stop")
    return stops


def _include_usage(body: Body, *, stream: bool) -> bool:
    options = body.get("stream_options")
    if options is None:
        return False
    if not stream:
        raise InvalidRequest("'stream_options' is only allowed when 'stream' is true.", "stream_options")
    if not isinstance(options, dict) or not isinstance(options.get("include_usage", False), bool | None):
        raise InvalidRequest("'stream_options' must be an object of booleans.", "stream_options")
    return options.get("include_usage") is True


def _tool_call(body: Body) -> ToolCall | None:
    """The call that `tool_choice` forces, if it forces one: with `auto` the simulator answers in words."""
    names: dict[str, int] = {}
    tools = [] if body.get("tools") is None else body["tools"]
    if not isinstance(tools, list):
        raise InvalidRequest("'tools' must be an array.", "tools")
    for place, tool in enumerate(tools):
        if not isinstance(tool, dict) or tool.get("type") != "function" or not isinstance(tool.get("function"), dict):
            raise InvalidRequest("A tool must be an object of type 'function'.", f"tools[{place}]")
        name = tool["function"].get("name")
        if not isinstance(name, str) or not name:
            raise InvalidRequest("A function must have a 'name'.", f"tools[{place}].function.name")
        names.setdefault(name, place)
    choice = body.get("tool_choice")
    if choice is None or choice in ("none", "auto"):
        return None
    if choice == "required":
        chosen = next(iter(names), None)
    else:
        function = choice.get("function") if isinstance(choice, dict) else None
        chosen = function.get("name") if isinstance(function, dict) else None
    if not isinstance(chosen, str) or chosen not in names:
        raise InvalidRequest("'tool_choice' must be none, auto, required or name one of 'tools'.", "tool_choice")
    parameters = tools[names[chosen]]["function"].get("parameters") or {"type": "object"}
    return ToolCall(chosen, _instance(parameters, f"tools[{names[chosen]}].function.parameters"))


def _structured(response_format: Any) -> Structured | Literal["json_object"] | None:
    kind = response_format.get("type") if isinstance(response_format, dict) else None
    if response_format is None or kind == "text":
        return None
    if kind == "json_object":
        return "json_object"
    if kind != "json_schema":
        raise InvalidRequest("'type' must be text, json_object or json_schema.", "response_format.type")
    given = response_format.get("json_schema")
    if not isinstance(given, dict) or not isinstance(given.get("schema"), dict):
        raise InvalidRequest("'json_schema' must be an object with a 'schema'.", "response_format.json_schema")
    return Structured(_instance(given["schema"], "response_format.json_schema.schema"))


def _instance(schema: Any, param: str) -> Any:
    try:
        return instance(schema)
    except UnsatisfiableSchemaError as error:
        raise InvalidRequest(f"The simulator has no value for this schema: {error}.", param) from None

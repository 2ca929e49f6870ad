"""Describes bodies that routes read themselves, so that the OpenAPI document is as full as if the framework had."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import BaseModel


_EXAMPLE = {
    "error": {
        "message": "Invalid 'model': Field required.",
        "type": "invalid_request_error",
        "param": "model",
        "code": "invalid_value",
    }
}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {
        "description": description,
        "content": {"application/json": {"schema": _ERROR} | example},
    }
    for status, description, example in (("4XX", "Refused", {"example": _EXAMPLE}), ("5XX", "Failed, or not now", {}))
}
"""The `responses` of every router: one shape for all errors."""


def json_body(model: type[BaseModel]) -> dict[str, Any]:
    """The `openapi_extra` of a route whose body is `model`; nested shapes are written in place."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})
    content = {"application/json": {"schema": _inline(schema, definitions)}}
    return {"requestBody": {"required": True, "content": content}}


def _inline(node: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(node, dict):
        if "$ref" in node:
            return _inline(definitions[node["$ref"].rpartition("/")[2]], definitions)
        return {name: _inline(value, definitions) for name, value in node.items()}
    return [_inline(item, definitions) for item in node] if isinstance(node, list) else node

"""Errors that a caller sees. One shape on every hop, OpenAI's, because that is what the SDKs read.

ServiceError
├── InvalidRequest        400  the caller can mend the request
│   ├── Unauthenticated   401
│   ├── PermissionDenied  403
│   ├── NotFound          404
│   ├── MethodNotAllowed  405
│   ├── BodyTimeout       408
│   ├── PayloadTooLarge   413
│   └── UnsupportedMediaType 415
├── RateLimited           429  come back later
│   └── BatchOverloaded   429
├── Unavailable           503  come back later
│   └── Overloaded        503
├── UpstreamFailed        502  the model's side broke its word
├── DeadlineExceeded      504  the caller's patience ended
└── ClientGone            499  nobody reads this any more
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import orjson
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from common.telemetry.traces import note_error
from common.wire import FINAL

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fastapi import FastAPI
    from starlette.requests import Request

    from common.telemetry.refusals import Refusals


class ServiceError(Exception):
    """An error with a status and OpenAI's `type` and `code`. The message goes to the caller: no secret, no content."""

    status: int = 500
    type: str = "server_error"
    code: str | None = "internal_error"
    default_headers: ClassVar[Mapping[str, str]] = {}
    scope: str = ""
    """Whose limit it was, or whose fault, where that is known: `key`, `tenant`, `platform`, `upstream`, …"""
    is_told: bool = False
    """Its words are an upstream's."""
    is_counted: bool = False

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or self.code
        self.headers = {**self.default_headers, **(headers or {})}

    @property
    def own_code(self) -> str | None:
        """The code for logs, spans and metrics: a word of ours, whatever an upstream says to its caller."""
        return type(self).code if self.is_told else self.code

    def body(self) -> bytes:
        return envelope(self.message, type_=self.type, param=self.param, code=self.code)

    def response(self) -> Response:
        return Response(self.body(), self.status, self.headers, media_type="application/json")


class InvalidRequest(ServiceError):
    status = 400
    type = "invalid_request_error"
    code = "invalid_request"


class Unauthenticated(InvalidRequest):
    status = 401
    code = "invalid_api_key"
    default_headers: ClassVar[Mapping[str, str]] = {"www-authenticate": "Bearer"}


class PermissionDenied(InvalidRequest):
    status = 403
    type = "permission_error"
    code = "permission_denied"


class NotFound(InvalidRequest):
    status = 404
    code = "not_found"


class MethodNotAllowed(InvalidRequest):
    status = 405
    code = "method_not_allowed"


class BodyTimeout(InvalidRequest):
    status = 408
    code = "body_timeout"
    default_headers: ClassVar[Mapping[str, str]] = {"connection": "close"}


class PayloadTooLarge(InvalidRequest):
    status = 413
    code = "payload_too_large"
    default_headers: ClassVar[Mapping[str, str]] = {"connection": "close"}


class UnsupportedMediaType(InvalidRequest):
    status = 415
    code = "unsupported_media_type"


class RateLimited(ServiceError):
    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class Unavailable(ServiceError):
    """Something that this answer needs is away for now."""

    status = 503
    type = "server_error"
    code = "unavailable"
    default_headers: ClassVar[Mapping[str, str]] = {"retry-after": "1"}


class Overloaded(Unavailable):
    """More is asked of the platform than it can do; nothing was started."""

    code = "overloaded"
    scope = "platform"


class BatchOverloaded(RateLimited):
    """As above, for work of batch priority: a 429, which delays a job and does not use up an attempt of it."""

    code = "batch_overloaded"
    scope = "platform"
    default_headers: ClassVar[Mapping[str, str]] = {"retry-after": "1"}


class UpstreamFailed(ServiceError):
    """The upstream answered with something that is no answer: cut, garbled, or a refusal of *our* credentials."""

    status = 502
    type = "upstream_error"
    code = "upstream_failed"
    scope = "upstream"


class DeadlineExceeded(ServiceError):
    """Nothing that would be started now, or again, could end in time."""

    status = 504
    type = "timeout_error"
    code = "deadline_exceeded"
    default_headers: ClassVar[Mapping[str, str]] = FINAL


class ClientGone(ServiceError):
    """The caller hung up. Nobody reads the answer; the status is for logs and spans (nginx's 499)."""

    status = 499
    type = "invalid_request_error"
    code = "client_gone"


def envelope(message: str, *, type_: str, param: str | None = None, code: str | None = None) -> bytes:
    """OpenAI's error object as JSON bytes."""
    error = {"message": message, "type": type_, "param": param, "code": code}
    try:
        return orjson.dumps({"error": error})
    except orjson.JSONEncodeError:  # half a surrogate pair: JSON can escape one into an upstream's message, or a key
        whole = {name: text and text.encode(errors="replace").decode() for name, text in error.items()}
        return orjson.dumps({"error": whole})


def param_path(location: Sequence[int | str]) -> str | None:
    """A field's place as OpenAI writes it: `("messages", 0, "role")` is `messages[0].role`."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path or None


_STATUS_ERRORS: dict[int, type[ServiceError]] = {
    cls.status: cls
    for cls in (InvalidRequest, Unauthenticated, PermissionDenied, NotFound, MethodNotAllowed, PayloadTooLarge)
}


_ROUTING = {404: "There is no such route.", 405: "This route does not take this method."}
"""What the framework raises itself, in words that tell it from a model or a job that is not there."""


def _note(request: Request, code: str | None) -> None:
    """Into the request's span and log line: why it was refused is what people look there for."""
    note_error(code)
    if (log := request.scope.get("state", {}).get("log")) is not None:
        log.setdefault("code", code)


def install(
    app: FastAPI, refusals: Refusals, note: Callable[[dict[str, Any], ServiceError], None] = lambda *_: None
) -> None:
    """Make every error of `app`, the framework's own included, answer in the one shape, and count it. `note` is told of
    each, with its request's `scope["state"]`.

    What nobody foresaw is answered by `common.middleware.RequestScope`, outside of the framework.
    """

    async def service_error(request: Request, error: ServiceError) -> Response:
        _note(request, error.own_code)
        refusals.note(error)
        note(request.scope.get("state", {}), error)
        return error.response()

    async def http_error(request: Request, error: HTTPException) -> Response:
        known = _STATUS_ERRORS.get(error.status_code)
        message = _ROUTING.get(error.status_code, str(error.detail))
        told = (known or InvalidRequest)(message, code=None if known else "http_error", headers=error.headers)
        told.status = error.status_code
        return await service_error(request, told)

    async def validation_error(request: Request, error: RequestValidationError) -> Response:
        first: dict[str, Any] = error.errors()[0]
        return await service_error(request, InvalidRequest(first["msg"], param=param_path(first["loc"][1:])))

    async def gone(request: Request, _: ClientDisconnect) -> Response:
        _note(request, ClientGone.code)
        return ClientGone("The client closed the connection.").response()

    app.add_exception_handler(ClientDisconnect, gone)  # type: ignore[arg-type]  # as below
    app.add_exception_handler(ServiceError, service_error)  # type: ignore[arg-type]  # starlette types handlers by Exception only
    app.add_exception_handler(HTTPException, http_error)  # type: ignore[arg-type]  # as above
    app.add_exception_handler(RequestValidationError, validation_error)  # type: ignore[arg-type]  # as above

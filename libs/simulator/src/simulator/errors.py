"""What the simulator refuses, in OpenAI's one error shape."""

from __future__ import annotations

import orjson

Headers = list[tuple[bytes, bytes]]
"""Header fields as ASGI wants them: lower-case names."""


class ApiError(Exception):
    """An answer that is an error: a status and OpenAI's envelope."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        headers: Headers | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.param = param
        self.code = code
        self.headers: Headers = headers or []

    def body(self) -> bytes:
        return envelope(self.message, type_=type_of(self.status), param=self.param, code=self.code)


class InvalidRequest(ApiError):
    """The body is not what the route takes; `param` names the field."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message, param=param, code=code)


class ModelNotFound(ApiError):
    def __init__(self, model: str) -> None:
        super().__init__(f"The model '{model}' does not exist.", status=404, param="model", code="model_not_found")


class InvalidApiKey(ApiError):
    def __init__(self) -> None:
        super().__init__(
            "Incorrect or missing API key.",
            status=401,
            code="invalid_api_key",
            headers=[(b"www-authenticate", b"Bearer")],
        )


class ScriptedFailure(ApiError):
    """The directive asked for this status."""

    def __init__(self, status: int, retry_after_s: int | None) -> None:
        super().__init__(
            f"The simulator was told to answer {status}.",
            status=status,
            code="rate_limit_exceeded" if status == 429 else "simulated_failure",  # noqa: PLR2004  # the status is the name
            headers=[] if retry_after_s is None else [(b"retry-after", b"%d" % retry_after_s)],
        )


_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def type_of(status: int) -> str:
    return _TYPES.get(status) or ("server_error" if status >= 500 else "invalid_request_error")  # noqa: PLR2004  # as above


def envelope(message: str, *, type_: str, param: str | None = None, code: str | None = None) -> bytes:
    return orjson.dumps({"error": {"message": message, "type": type_, "param": param, "code": code}})

"""What is submitted as a job: judged here as far as the queue has to rely on it; the gateway has judged the rest."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any
from uuid import uuid4

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.errors import InvalidRequest, param_path
from common.telemetry import trace_context
from jobs.errors import RequestTooLarge
from jobs.record import Endpoint  # noqa: TC001  # pydantic evaluates it at run time
from jobs.transitions import NewJob

if TYPE_CHECKING:
    from common.identity import HopIdentity
    from jobs.sealing import Sealer
    from jobs.settings import Settings

_KEY = re.compile(r"[\x21-\x7e]{1,255}")


class JobRequest(BaseModel):
    """A request to run later: one that the gateway would answer at `endpoint`."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    endpoint: Endpoint
    body: dict[str, Any]
    deadline_s: Annotated[float, Field(gt=0, description="Seconds; after them the job is expired.")] | None = None
    metadata: Annotated[dict[str, Annotated[str, Field(max_length=512)]], Field(max_length=16)] | None = None


def parse(payload: bytes) -> JobRequest:
    """Raises `InvalidRequest` that names the field; it never repeats a value."""
    try:
        return JobRequest.model_validate(orjson.loads(payload))
    except orjson.JSONDecodeError:
        raise InvalidRequest("The request body is not valid JSON.", code="invalid_json") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        param = param_path([part for part in first["loc"][:1] if part in JobRequest.model_fields])
        raise InvalidRequest(f"Invalid job: {first['msg']}.", param=param, code="invalid_value") from None


def new_job(  # noqa: PLR0913  # what a record is made of, most by keyword
    asked: JobRequest, identity: HopIdentity, *, key: str | None, request_id: str, sealer: Sealer, settings: Settings
) -> NewJob:
    """The record to accept. Raises `InvalidRequest` and `RequestTooLarge`."""
    request = orjson.dumps(asked.body)
    if len(request) > settings.max_request_bytes:
        raise RequestTooLarge(settings.max_request_bytes)
    if key is not None and _KEY.fullmatch(key) is None:
        raise InvalidRequest("An Idempotency-Key has 1 to 255 visible ASCII characters.", param="idempotency-key")
    deadline_s = min(asked.deadline_s or settings.default_deadline_s, settings.max_deadline_s)
    job_id = f"job_{uuid4().hex}"

    def sealed(value: bytes, field: str) -> bytes:
        return sealer.seal(value, tenant=identity.tenant, job_id=job_id, field=field)

    return NewJob(
        id=job_id,
        tenant=identity.tenant,
        request=sealed(request, "request"),
        deadline_ms=max(1, round(deadline_s * 1000)),
        keep_ms=settings.keep_s * 1000,
        digest=sealer.digest(orjson.dumps(asked.model_dump(), option=orjson.OPT_SORT_KEYS)),
        idempotency="" if key is None else sealer.digest(b"key:" + key.encode()),
        fields={
            "key_id": identity.key_id,
            "endpoint": asked.endpoint,
            "max_attempts": settings.max_attempts,
            "request_id": request_id,
            "traceparent": trace_context.traceparent(),
            "is_stream": "1" if asked.body.get("stream") is True else "",
            "metadata": sealed(orjson.dumps(asked.metadata), "metadata") if asked.metadata else b"",
        },
    )

"""What a route may ask for: who is calling, what they sent, and until when they wait."""

from __future__ import annotations

import asyncio
import hmac
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypedDict, cast

from fastapi import Depends, Request
from opentelemetry import context as otel_context
from opentelemetry import trace
from redis.asyncio import Redis
from starlette.requests import ClientDisconnect

from common import wire
from common.deadline import Deadline, positive_number
from common.errors import (
    BodyTimeout,
    ClientGone,
    InvalidRequest,
    PayloadTooLarge,
    PermissionDenied,
    Unauthenticated,
    UnsupportedMediaType,
)
from common.identity import HopIdentity, Priority
from common.settings import revealed
from common.telemetry import conventions
from common.telemetry.timings import Timings
from gateway.access.audit import Actor
from gateway.access.authentication import Authenticator, Caller, bearer
from gateway.access.failed_logins import FailedLogins
from gateway.access.key_directory import KeyDirectory
from gateway.access.keys import ApiKey
from gateway.access.keys_file import DeclaredKeys
from gateway.answers.completions import Completions
from gateway.call import Call
from gateway.decision import Decision
from gateway.governor import Governor
from gateway.inference_client import InferenceClient
from gateway.jobs.jobs_client import JobsClient
from gateway.jobs.replays import KeyRevoked, ReplayAuthenticator, is_hop_token
from gateway.judging import judge
from gateway.limits.ledger import Ledger
from gateway.settings import Settings
from gateway.strict_json import parse_object, render

if TYPE_CHECKING:
    from collections.abc import Mapping

HURRIED = 0.9
"""A caller who waits less than this share of the usual time is in a hurry."""


class State(TypedDict):
    """What the lifespan opens, or is given, for the routes."""

    settings: Settings
    store: Redis
    """The *state* store as administration reaches it: with more patience than a request has."""
    authenticator: Authenticator
    directory: KeyDirectory
    declared: DeclaredKeys
    failed_logins: FailedLogins
    inference: InferenceClient
    completions: Completions
    governor: Governor
    ledger: Ledger
    jobs: JobsClient | None
    """None: this gateway has no jobs."""
    replays: ReplayAuthenticator | None


def state_of(request: Request) -> State:
    return cast("State", request.scope["state"])


async def authenticated(request: Request) -> Caller:
    """The caller behind the API key. On every router but health's: deny by default."""
    started = time.perf_counter()
    scope_state = request.scope["state"]
    timings: Timings = scope_state["timings"]
    decision = scope_state["decision"] = Decision(scope_state["headers"])
    scope_state["ending"].callback(decision.record, scope_state["log"])
    authorization, replays = request.headers.get("authorization"), state_of(request)["replays"]
    if replays is not None and is_hop_token(authorization):
        caller = await _replayed(request, replays, authorization)
    else:
        caller = await state_of(request)["authenticator"].authenticate(authorization, address_of(request))
    timings.record("auth", started)
    decision.note("key", caller.key_id)
    span = trace.get_current_span()
    if span.is_recording():
        span.set_attribute(conventions.TENANT, caller.tenant)
        span.set_attribute(conventions.KEY_ID, caller.key_id)
    scope_state["log"] |= {"tenant": caller.tenant, "key_id": caller.key_id}
    return caller


AuthenticatedCaller = Annotated[Caller, Depends(authenticated)]


async def _replayed(request: Request, replays: ReplayAuthenticator, authorization: str | None) -> Caller:
    """A worker's caller. A token that is none of ours is a failed authentication like any other."""
    try:
        return await replays.authenticate(authorization)
    except KeyRevoked:
        raise
    except Unauthenticated:
        failed_logins, address = state_of(request)["failed_logins"], address_of(request)
        failed_logins.check(address)
        failed_logins.note(address)
        raise


def address_of(request: Request) -> str | None:
    """Where the client is; behind a trusted proxy, where that says it is."""
    return request.client.host if request.client else None


async def administrator(request: Request) -> Actor:
    """Refuse everybody but the holder of an admin key; an API key is told that it is the wrong class of key."""
    settings = state_of(request)["settings"]
    text = bearer(request.headers.get("authorization"))
    for admin_key in revealed(settings.admin_key, settings.admin_key_previous):
        if hmac.compare_digest(text.encode(), admin_key.encode()):
            return Actor.of(admin_key, request.scope["state"]["request_id"])
    failed_logins = state_of(request)["failed_logins"]
    failed_logins.check(address_of(request))
    if ApiKey.parse(text) is not None:
        raise PermissionDenied("An API key cannot administer the platform.")
    failed_logins.note(address_of(request))
    raise Unauthenticated("The admin key is missing or not valid.")


Administrator = Annotated[Actor, Depends(administrator)]


async def acceptable_content(request: Request) -> None:  # async: FastAPI runs a plain function in a thread
    """Refuse what need not be read: wrong type, encoded, or announced as too large."""
    if request.method not in ("POST", "PATCH", "PUT"):
        return
    headers = request.headers
    if headers.get("content-type", "").partition(";")[0].strip().lower() != wire.JSON:
        raise UnsupportedMediaType("The Content-Type has to be application/json.")
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise UnsupportedMediaType("Encoded bodies are not accepted; send Content-Encoding: identity.")
    length = headers.get("content-length", "0")
    if length.isdecimal() and int(length) > state_of(request)["settings"].max_body_bytes:
        raise _too_large(state_of(request)["settings"])


async def read_body(request: Request) -> dict[str, Any]:
    """The request's JSON object, judged strictly, read within its time and size."""
    settings = state_of(request)["settings"]
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            async for chunk in request.stream():
                size += len(chunk)
                if size > settings.max_body_bytes:
                    raise _too_large(settings)
                chunks.append(chunk)
    except TimeoutError:
        raise BodyTimeout("The request body did not arrive in time.") from None
    except ClientDisconnect:
        raise ClientGone("The client closed the connection.") from None
    return parse_object(b"".join(chunks))


JsonBody = Annotated[dict[str, Any], Depends(read_body)]


def _too_large(settings: Settings) -> PayloadTooLarge:
    return PayloadTooLarge(f"The request body is larger than {settings.max_body_bytes} bytes.")


@dataclass(frozen=True, slots=True)
class CallFactory:
    """Makes the `Call` of a request."""

    request: Request
    caller: Caller

    def __call__(self, endpoint: str, body: dict[str, Any]) -> Call:
        """The call that `endpoint` makes of a body. Raises `InvalidRequest` for one that it does not take."""
        settings = state_of(self.request)["settings"]
        judged = judge(endpoint, body, default_model=settings.default_model, denied=settings.denied_fields)
        self.request.scope["state"]["log"]["model"] = judged.body["model"]
        payload = render(dict(judged.body))
        return self._made(judged.endpoint, judged.body, payload, is_stream=judged.is_stream, choices=judged.choices)

    def without_body(self, endpoint: str) -> Call:
        return self._made(endpoint, {}, b"")

    def _made(
        self, endpoint: str, body: Mapping[str, Any], payload: bytes, *, is_stream: bool = False, choices: int = 1
    ) -> Call:
        scope_state = self.request.scope["state"]
        return Call(
            caller=self.caller,
            identity=self.identity(),
            request_id=scope_state["request_id"],
            endpoint=endpoint,
            body=body,
            payload=payload,
            deadline=self.deadline(is_stream=is_stream),
            is_hurried=self._patience_s(is_stream=is_stream) < HURRIED * self._usual_patience_s(is_stream=is_stream),
            trace_context=otel_context.get_current(),
            timings=scope_state["timings"],
            is_stream=is_stream,
            choices=choices,
            cache_control=_directives(self.request.headers.get("cache-control", "")),
            log=scope_state["log"],
            headers=self.request.headers,
            answer_headers=scope_state["headers"],
            decision=scope_state["decision"],
            ending=scope_state["ending"],
            route=self.request.scope["path"],
            receive=self.request.receive,
        )

    def identity(self) -> HopIdentity:
        policy = self.caller.policy
        priority = _priority(self.request.headers, policy.priority)
        return HopIdentity(self.caller.tenant, self.caller.key_id, priority, captures_content=policy.capture_content)

    def deadline(self, *, is_stream: bool = False) -> Deadline:
        # The caller waits since the request arrived, not since its body was read.
        return Deadline(self.request.scope["state"]["arrived_at"] + self._patience_s(is_stream=is_stream))

    def _patience_s(self, *, is_stream: bool) -> float:
        """How long the caller waits: our header, else the SDK's read timeout (of a stream: its gaps), else ours."""
        headers = self.request.headers
        if (given := headers.get(wire.TIMEOUT_MS)) is not None:
            patience = positive_number(given, wire.TIMEOUT_MS) / 1000
        elif not is_stream and (given := headers.get("x-stainless-read-timeout")) is not None:
            patience = positive_number(given, "x-stainless-read-timeout")
        else:
            patience = self._usual_patience_s(is_stream=is_stream)
        return min(patience, state_of(self.request)["settings"].max_timeout_s)

    def _usual_patience_s(self, *, is_stream: bool) -> float:
        settings = state_of(self.request)["settings"]
        usual = settings.stream_timeout_s if is_stream else settings.request_timeout_s
        return float(min(usual, settings.max_timeout_s))


async def call_factory(request: Request, caller: AuthenticatedCaller) -> CallFactory:  # async: as above
    return CallFactory(request, caller)


Calls = Annotated[CallFactory, Depends(call_factory)]


def _priority(headers: Mapping[str, str], ceiling: Priority) -> Priority:
    """The key's own priority, unless the caller asks for less."""
    wanted = headers.get(wire.PRIORITY, ceiling)
    if wanted not in ("interactive", "batch"):
        raise InvalidRequest(f"The header {wire.PRIORITY} has to be interactive or batch.", param=wire.PRIORITY)
    return "batch" if "batch" in (wanted, ceiling) else "interactive"


def _directives(cache_control: str) -> frozenset[str]:
    return frozenset(part.strip().lower() for part in cache_control.split(",")) if cache_control else frozenset()

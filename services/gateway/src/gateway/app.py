"""The gateway: where its parts meet."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING

from opentelemetry.metrics import NoOpMeter

from common.guard.door import Door
from common.health import Health
from common.http_client import create_client
from common.identity import HopSigner, HopVerifier
from common.overload.gate import watching
from common.overload.memory import memory_gauge
from common.overload.shedder import Shedder
from common.server import draining
from common.service import frame
from common.settings import BadSettingsError, load, revealed
from common.stores import close, connect, is_reachable
from common.telemetry import conventions, traces
from common.telemetry.refusals import Refusals
from common.telemetry.spans import Spans, StoreSpans
from gateway.access.authentication import Authenticator
from gateway.access.failed_logins import FailedLogins
from gateway.access.key_directory import KeyDirectory
from gateway.access.key_reading import KeyReader
from gateway.access.key_upkeep import KeyUpkeep
from gateway.access.keys_file import BadKeysFileError, DeclaredKeys
from gateway.access.trusted_traces import TrustedTraces
from gateway.admission.turnstile import Turnstile
from gateway.caching.opening import open_completions
from gateway.catalogue import ModelCatalogue
from gateway.decision import note_error
from gateway.dependencies import State
from gateway.governor import Governor
from gateway.idempotency.opening import open_keyed_requests
from gateway.inference_client import InferenceClient
from gateway.jobs.jobs_client import JobsClient
from gateway.jobs.replays import ReplayAuthenticator
from gateway.limits.opening import open_limits
from gateway.metrics import Metrics
from gateway.routes import admin, admin_cache, admin_tenants, admin_usage, generate, jobs, openai
from gateway.settings import Settings
from gateway.store_breaker import StoreBreaker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fastapi import FastAPI
    from opentelemetry.metrics import Meter
    from opentelemetry.sdk.trace import TracerProvider
    from redis.asyncio import Redis


ADMIN = (admin.router, admin_tenants.router, admin_cache.router, admin_usage.router)
ADMIN_STORE_TIMEOUT_S = 2.0
"""An operator's command waits for the *state* store longer than a request does: a hiccup is no reason to fail it."""


def create_app(
    settings: Settings | None = None, *, tracer_provider: TracerProvider | None = None, meter: Meter | None = None
) -> FastAPI:
    """Build the service. Nothing is opened before its lifespan; stores and services may come later than it."""
    settings = settings or load(Settings)
    provider = tracer_provider or traces.provider_from_environment("gateway")
    health = Health()
    shedder = Shedder(
        max_requests=settings.max_requests,
        max_body_bytes=settings.max_body_bytes_in_flight,
        max_lag_s=settings.max_lag_s,
    )
    spans = Spans(provider)
    turnstile = Turnstile(
        settings.max_concurrency, waiting_span=functools.partial(spans.around, conventions.ADMISSION_WAIT)
    )
    turnstile.is_batch_shed = lambda: shedder.is_batch_shed
    refusals = Refusals()
    declared = _declared(settings)
    workers = _verifier_of_workers(settings)
    trusted = TrustedTraces(workers)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[State]:
        async with contextlib.AsyncExitStack() as stack:
            store: Redis = connect(settings.state_url.get_secret_value())
            stack.push_async_callback(close, store)
            health.add_shared("state_store", lambda: is_reachable(store))
            state = await _open(
                stack, settings, store, provider, meter, health=health, turnstile=turnstile, declared=declared,
                refusals=refusals,
            )  # fmt: skip
            Metrics(
                meter or NoOpMeter("gateway"),
                governor=state["governor"],
                completions=state["completions"],
                turnstile=turnstile,
                directory=state["directory"],
                failed_logins=state["failed_logins"],
            )
            trusted.authenticator = state["authenticator"]
            state["jobs"] = await _open_jobs(stack, settings, provider, meter)
            if workers is not None:
                state["replays"] = ReplayAuthenticator(workers, state["directory"].look_up)
            await stack.enter_async_context(watching(shedder, memory_gauge(settings.memory_limit_bytes)))
            await stack.enter_async_context(draining(health, settings.drain_delay_s))
            yield state
        traces.shut_down(provider, settings.flush_share_s)

    routers = [generate.router, openai.router, *(ADMIN if settings.admin_key is not None else ())]
    if settings.jobs_hop_secret is not None:
        routers += [jobs.router, *([jobs.admin_router] if settings.admin_key is not None else [])]
    return frame(
        "gateway",
        lifespan=lifespan,
        health=health,
        routers=routers,
        tracer_provider=provider,
        meter=meter,
        edge=True,
        is_ours=trusted.is_of,
        shedder=shedder,
        refusals=refusals,
        note_error=note_error,
    )


def _verifier_of_workers(settings: Settings) -> HopVerifier | None:
    secrets = revealed(settings.hop_secret, settings.hop_secret_previous)
    return HopVerifier(secrets, "gateway") if secrets else None


async def _open_jobs(
    stack: contextlib.AsyncExitStack, settings: Settings, provider: TracerProvider | None, meter: Meter | None
) -> JobsClient | None:
    if settings.jobs_hop_secret is None:
        return None
    client = create_client(base_url=settings.jobs_url, tracer_provider=provider, meter=meter)
    await stack.enter_async_context(client)
    return JobsClient(client, HopSigner(settings.jobs_hop_secret.get_secret_value(), "jobs"))


async def _open(  # noqa: PLR0913  # here the parts meet
    stack: contextlib.AsyncExitStack,
    settings: Settings,
    store: Redis,
    provider: TracerProvider | None,
    meter: Meter | None,
    *,
    health: Health,
    turnstile: Turnstile,
    declared: DeclaredKeys,
    refusals: Refusals,
) -> State:
    signer = HopSigner(settings.inference_hop_secret.get_secret_value(), "inference")
    client = create_client(base_url=settings.inference_url, tracer_provider=provider, meter=meter)
    inference = InferenceClient(await stack.enter_async_context(client), signer, turnstile)
    untraced = create_client(base_url=settings.inference_url, meter=meter)  # nobody's request asks for it
    catalogue = ModelCatalogue(await stack.enter_async_context(untraced), signer)
    await stack.enter_async_context(catalogue.kept_fresh())
    limits_url = None if settings.limits_url is None else settings.limits_url.get_secret_value()
    limiter = await open_limits(
        stack,
        limits_url,
        replicas=settings.expected_replicas,
        catalogue=catalogue,
        health=health,
        provider=provider,
        meter=meter,
    )
    completions = await open_completions(
        stack, settings, inference, provider, revision=lambda: catalogue.revision, meter=meter
    )
    spans = StoreSpans("state", provider, meter)
    breaker = StoreBreaker(lambda: is_reachable(store))
    stack.push_async_callback(breaker.close)
    directory, authenticator = await _open_keys(stack, settings, store, breaker, declared, spans)
    patient: Redis = connect(settings.state_url.get_secret_value(), call_timeout_s=ADMIN_STORE_TIMEOUT_S)
    stack.push_async_callback(close, patient)
    return State(
        settings=settings,
        store=patient,
        authenticator=authenticator,
        directory=directory,
        declared=declared,
        failed_logins=authenticator.failed_logins,
        inference=inference,
        completions=completions,
        governor=Governor(await open_keyed_requests(stack, settings, store, breaker, spans), limiter, refusals),
        ledger=limiter.ledger,
        jobs=None,
        replays=None,
    )


async def _open_keys(  # noqa: PLR0913, PLR0917  # as above
    stack: contextlib.AsyncExitStack,
    settings: Settings,
    store: Redis,
    breaker: StoreBreaker,
    declared: DeclaredKeys,
    spans: StoreSpans,
) -> tuple[KeyDirectory, Authenticator]:
    reader = KeyReader(store, declared, spans)
    directory = KeyDirectory(reader.one, breaker)
    upkeep = KeyUpkeep(store, directory, breaker, reader.many)
    await stack.enter_async_context(upkeep.working())
    await stack.enter_async_context(declared.watched(directory.forget_all))
    peppers = revealed(settings.key_pepper, settings.key_pepper_previous)
    failed_logins = FailedLogins(settings.failed_logins_per_minute)
    return directory, Authenticator(directory, failed_logins, peppers, note_used=upkeep.note_used)


def _declared(settings: Settings) -> DeclaredKeys:
    try:
        return DeclaredKeys(settings.keys_file)
    except BadKeysFileError as error:
        raise BadSettingsError(f"GATEWAY_KEYS_FILE: {error}") from None


def door_of(settings: Settings) -> Door:
    return Door(
        is_edge=True,
        trusted_proxies=settings.trusted_proxies,
        connections_per_address=settings.connections_per_address,
        header_timeout_s=settings.header_timeout_s,
        body_timeout_s=settings.body_timeout_s + 5,  # the application's own limit comes first: it says more
        decoded_below=(b"/v1/models/",),  # the SDKs encode the slash in a model's name
    )

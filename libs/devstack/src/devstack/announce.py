"""Waits until the stack is ready and says what to do with it.

A process of its own that ends: `up` stays without an HTTP client and a Redis client.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
import time
from typing import TYPE_CHECKING

from redis.asyncio import Redis

from devstack import env_file, local_http, plan
from devstack.credentials import DEVELOPMENT_KEY
from devstack.errors import CommandError
from gateway.access.key_store import put_key
from gateway.access.records import record_for
from gateway.errors import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from devstack.local_dir import LocalDir

READY_TIMEOUT_S = 30
_POLL_S = 0.05


def run(local: LocalDir, ready_urls: Sequence[str], started: float) -> None:
    """Store the development key, wait for every URL to answer 200, write dev.env and print what to paste.

    `started`: when `up` began, seconds since the epoch. Raises `CommandError` naming what is not ready in 30 s.
    """
    deadline = time.monotonic() + READY_TIMEOUT_S
    asyncio.run(_store_key(os.environ, deadline))
    for url in ready_urls:
        _wait(url, deadline)
    client = plan.client_environment(os.environ)
    env_file.write(
        local.dev_env, client, about="Made by ./justw up: source it, and the OpenAI SDK finds this stack", export=True
    )
    print(banner(client, os.environ, time.time() - started, local), flush=True)


async def _store_key(environment: Mapping[str, str], deadline: float) -> None:
    record = record_for(
        environment[DEVELOPMENT_KEY], pepper=environment["GATEWAY_KEY_PEPPER"], tenant="dev", name="development"
    )
    store = Redis.from_url(environment["GATEWAY_STATE_URL"], socket_connect_timeout=1, socket_timeout=1)
    async with store:
        while True:
            try:
                await put_key(store, record)
            except StoreUnavailableError as error:
                if time.monotonic() > deadline:
                    raise CommandError(
                        f"the state store does not accept the development key: {error.reason}"
                    ) from error
                await asyncio.sleep(_POLL_S)
            else:
                return


def _wait(url: str, deadline: float) -> None:
    while True:
        try:
            answer = local_http.request(url, timeout_s=1)
        except local_http.UnreachableError as error:
            why = str(error)
        else:
            if answer.status == 200:  # noqa: PLR2004  # OK
                return
            why = f"status {answer.status} {answer.body.decode(errors='replace')[:300]}"
        if time.monotonic() > deadline:
            raise CommandError(f"not ready after {READY_TIMEOUT_S} s: {url}: {why}")
        time.sleep(_POLL_S)


def _metrics_pages(environment: Mapping[str, str]) -> str:
    named = {name: environment.get(f"{name.upper()}_METRICS_PORT", "0") for name in plan.MEASURED}
    pages = ", ".join(f"{name} {port}" for name, port in named.items() if port != "0")
    return f"{plan.url('PORT')}/metrics: {pages}" if pages else "none"


def banner(client: Mapping[str, str], environment: Mapping[str, str], took_s: float, local: LocalDir) -> str:
    """Return what `up` prints when everything is there; the three commands work as they are when pasted."""
    base_url, key = client["OPENAI_BASE_URL"], client["OPENAI_API_KEY"]
    model = environment.get("GATEWAY_DEFAULT_MODEL") or "MODEL"
    curl = f"-H 'Authorization: Bearer {key}' -H 'Content-Type: application/json'"
    return f"""
Spillway is ready ({took_s:.1f} s). Ctrl-C stops it.

  base URL          {base_url}
  development key   {key}
  upstream          {environment["INFERENCE_UPSTREAM_BASE_URL"]}
  for your shell    . {shlex.quote(str(local.dev_env))}
  metrics           {_metrics_pages(environment)}

A question. Asked again, the answer comes from the cache:

curl -sS {client["SPILLWAY_URL"]}/generate {curl} \\
  -d '{{"prompt": "Say hello"}}'

A stream:

curl -sSN {base_url}/chat/completions {curl} \\
  -d '{{"model": "{model}", "stream": true, "messages": [{{"role": "user", "content": "Count to ten"}}]}}'

The official SDK:

{shlex.quote(sys.executable)} - <<'END'
from openai import OpenAI

client = OpenAI(base_url="{base_url}", api_key="{key}")
messages = [{{"role": "user", "content": "Say hello"}}]
print(client.chat.completions.create(model="{model}", messages=messages).choices[0].message.content)
END

./justw demo shows a cache hit, a stream, retries, a job and their traces; ./justw trace the last request's;
./justw keys create --tenant me --name laptop makes a key, and ./justw alone lists what else there is.
"""

"""The simulator on real sockets: what the official SDK makes of it, and what its faults are on the wire."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any, Self

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel, SecretStr

from simulator.app import create_app
from simulator.settings import SimulatorSettings
from simulator.transport import SimulatorProtocol
from support.server import running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam

BOUND_S = 10
RST = struct.pack("ii", 1, 0)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running(create_app(SimulatorSettings()), http=SimulatorProtocol, lifespan="off") as url:
        yield url


@pytest.fixture
def sdk(url: str) -> Iterator[OpenAI]:
    with client_of(url) as client:
        yield client


def client_of(url: str, api_key: str = "any") -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key=api_key, max_retries=0, timeout=BOUND_S)


def user(text: str) -> list[ChatCompletionMessageParam]:
    return [{"role": "user", "content": text}]


def call(url: str, method: str = "GET") -> Any:
    with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=BOUND_S) as answer:  # noqa: S310  # our own server
        return json.loads(answer.read() or b"null")


def attempts(url: str, request_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = call(f"{url}/_sim/requests?request_id={request_id}")["requests"]
    return found


def attempt_once(url: str, request_id: str, is_so: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """The attempt with this request id as soon as `is_so`; each look is a round trip to the simulator."""
    deadline = time.monotonic() + BOUND_S
    while time.monotonic() < deadline:
        for attempt in attempts(url, request_id):
            if is_so(attempt):
                return attempt
    raise TimeoutError(attempts(url, request_id))


class Wire:
    """A raw connection that has sent one chat request; `window` bounds the bytes it takes without being read."""

    def __init__(
        self, url: str, text: str, *, stream: bool, request_id: str = "wire", window: int | None = None
    ) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        body = json.dumps({"model": "sim-small", "messages": user(text), "stream": stream}).encode()
        self.socket = socket.socket()
        self.socket.settimeout(BOUND_S)
        if window:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        self.socket.connect((host, int(port)))
        self.socket.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: sim\r\nContent-Type: application/json\r\n"
            b"X-Request-Id: %b\r\nContent-Length: %d\r\n\r\n%b" % (request_id.encode(), len(body), body)
        )
        self.received = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def read_until(self, mark: bytes) -> None:
        while mark not in self.received:
            part = self.socket.recv(65_536)
            assert part, f"the connection ended before {mark!r}"
            self.received += part

    def read_to_the_end(self) -> str:
        """How the connection ended: `fin` or `rst`."""
        try:
            while part := self.socket.recv(65_536):
                self.received += part
        except ConnectionResetError:
            return "rst"
        return "fin"


# -- the API, as the SDK sees it -----------------------------------------------------------------------------------


def test_the_same_request_gets_the_same_text_and_right_usage(sdk: OpenAI) -> None:
    first, second = (
        sdk.chat.completions.create(model="sim-small", messages=user("Same for all"), max_tokens=7) for _ in range(2)
    )
    assert first.choices[0].message.content == second.choices[0].message.content
    assert first.choices[0].finish_reason == "length"
    assert first.usage is not None
    assert (first.usage.prompt_tokens, first.usage.completion_tokens, first.usage.total_tokens) == (3, 7, 10)
    assert first.system_fingerprint == "spillway-simulator"


def test_two_attempts_of_one_prompt_differ_in_their_id_alone(sdk: OpenAI) -> None:
    first, second = (
        sdk.chat.completions.create(model="sim-small", messages=user("Which attempt?")).id for _ in range(2)
    )
    assert first.rpartition("-")[0] == second.rpartition("-")[0]
    assert first != second


async def test_a_stream_adds_up_to_the_whole_answer_of_the_same_request(url: str) -> None:
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0, timeout=BOUND_S) as sdk:
        prompt = user("Tell me [[sim tokens=40 itl_ms=0.1]]")
        whole = await sdk.chat.completions.create(model="sim-small", messages=prompt)
        stream = await sdk.chat.completions.create(
            model="sim-small", messages=prompt, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    assert len(chunks) == 41
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage == whole.usage


def test_the_sdk_parses_a_forced_tool_call_and_a_structured_answer(sdk: OpenAI) -> None:
    class Person(BaseModel):
        name: str
        born: int

    parsed = sdk.chat.completions.parse(model="sim-small", messages=user("Who?"), response_format=Person)
    assert parsed.choices[0].message.parsed == Person(name="", born=0)
    tool = openai.pydantic_function_tool(Person)
    called = sdk.chat.completions.parse(model="sim-small", messages=user("Who?"), tools=[tool], tool_choice="required")
    assert called.choices[0].finish_reason == "tool_calls"
    calls = called.choices[0].message.tool_calls
    assert calls is not None
    assert calls[0].function.parsed_arguments == Person(name="", born=0)


def test_the_sdk_accumulates_a_streamed_tool_call(sdk: OpenAI) -> None:
    class Weather(BaseModel):
        city: str

    with sdk.chat.completions.stream(
        model="sim-small",
        messages=user("Rain?"),
        tools=[openai.pydantic_function_tool(Weather)],
        tool_choice="required",
    ) as stream:
        message = stream.get_final_completion().choices[0].message
    assert message.tool_calls is not None
    assert message.tool_calls[0].function.parsed_arguments == Weather(city="")


def test_embeddings_are_read_by_the_sdk_in_both_encodings(sdk: OpenAI) -> None:
    plain = sdk.embeddings.create(model="sim-embed", input=["a", "b"], dimensions=16, encoding_format="float")
    packed = sdk.embeddings.create(model="sim-embed", input=["a", "b"], dimensions=16)  # base64
    assert [item.embedding for item in packed.data] == [item.embedding for item in plain.data]


def test_models_are_listed_and_found_and_others_are_not(sdk: OpenAI) -> None:
    assert [model.id for model in sdk.models.list()] == ["sim-small", "sim-large", "sim-embed"]
    assert sdk.models.retrieve("sim-large").id == "sim-large"
    with pytest.raises(openai.NotFoundError) as missing:
        sdk.models.retrieve("gpt-9")
    assert missing.value.code == "model_not_found"


def test_an_unknown_model_is_not_found(sdk: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        sdk.chat.completions.create(model="gpt-9", messages=user("Hi"))
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")


def test_a_malformed_request_names_its_field(sdk: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        sdk.chat.completions.create(model="sim-small", messages=[])
    assert (bad.value.param, bad.value.type) == ("messages", "invalid_request_error")


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"{", b'{"n":' * 300 + b"1" + b"}" * 300, b'"\\ud800"'])
def test_a_body_that_is_no_json_object_is_refused(url: str, body: bytes) -> None:
    request = urllib.request.Request(f"{url}/v1/chat/completions", body, {"Content-Type": "application/json"})  # noqa: S310  # our own server
    with pytest.raises(urllib.error.HTTPError) as bad:
        urllib.request.urlopen(request, timeout=BOUND_S)  # noqa: S310  # as above
    with bad.value as answer:
        assert (answer.status, json.load(answer)["error"]["code"]) == (400, "invalid_json")


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v1/chat/completions", 405), ("GET", "/nowhere", 404)])
def test_unknown_routes_answer_in_the_one_error_shape(url: str, method: str, path: str, status: int) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        call(url + path, method)
    with refused.value as answer:
        assert answer.status == status
        assert set(json.load(answer)["error"]) == {"message", "type", "param", "code"}


def test_a_body_larger_than_the_bound_is_refused() -> None:
    settings = SimulatorSettings(max_body_bytes=2_000)
    with running(create_app(settings), http=SimulatorProtocol, lifespan="off") as url, client_of(url) as sdk:
        with pytest.raises(openai.APIStatusError) as refused:
            sdk.chat.completions.create(model="sim-small", messages=user("x" * 2_000))
        assert refused.value.status_code == 413


def test_a_key_is_wanted_when_one_is_set() -> None:
    settings = SimulatorSettings(api_key=SecretStr("right"))
    with running(create_app(settings), http=SimulatorProtocol, lifespan="off") as url:
        with client_of(url, "wrong") as sdk, pytest.raises(openai.AuthenticationError) as refused:
            sdk.chat.completions.create(model="sim-small", messages=user("Hi"))
        assert refused.value.code == "invalid_api_key"
        with client_of(url, "right") as sdk:
            assert sdk.models.list().data
        assert call(f"{url}/health") == {"status": "ok"}


# -- scripts ---------------------------------------------------------------------------------------------------------


def test_a_scripted_status_comes_with_its_retry_after_and_stops_after_its_times(sdk: OpenAI, url: str) -> None:
    prompt = user("Busy [[sim status=429 retry_after=7 times=2]]")
    call(f"{url}/_sim/requests", "DELETE")
    for _ in range(2):
        with pytest.raises(openai.RateLimitError) as busy:
            sdk.chat.completions.create(model="sim-small", messages=prompt)
        assert busy.value.response.headers["retry-after"] == "7"
    assert sdk.chat.completions.create(model="sim-small", messages=prompt).choices
    logged = call(f"{url}/_sim/requests")["requests"]
    assert [(attempt["number"], attempt["status"]) for attempt in logged] == [(1, 429), (2, 429), (3, 200)]
    assert len({attempt["prompt"] for attempt in logged}) == 1


def test_clearing_the_log_starts_the_times_again(sdk: OpenAI, url: str) -> None:
    prompt = user("Once [[sim status=503 times=1]]")
    for _ in range(2):
        with pytest.raises(openai.InternalServerError):
            sdk.chat.completions.create(model="sim-small", messages=prompt)
        assert sdk.chat.completions.create(model="sim-small", messages=prompt).choices
        call(f"{url}/_sim/requests", "DELETE")


def test_embeddings_follow_the_directive_in_their_input(sdk: OpenAI) -> None:
    with pytest.raises(openai.InternalServerError) as failed:
        sdk.embeddings.create(model="sim-embed", input=["[[sim status=500]]", "b"])
    assert failed.value.code == "simulated_failure"


def test_a_bad_directive_is_refused_by_name(sdk: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="tokens=many"):
        sdk.chat.completions.create(model="sim-small", messages=user("[[sim tokens=many]]"))


def test_the_time_to_the_first_token_passes_before_the_first_byte(sdk: OpenAI, url: str) -> None:
    headers = {"x-request-id": "ttft"}
    sdk.chat.completions.create(model="sim-small", messages=user("[[sim ttft_ms=30]]"), extra_headers=headers)
    attempt = attempts(url, "ttft")[0]
    assert attempt["first_byte"] - attempt["received"] >= 0.029


# -- faults on the wire ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize("itl_ms", [0, 0.1])
def test_a_cut_stream_has_its_chunks_and_then_ends_as_told_without_the_last_chunk(
    url: str, how: str, itl_ms: float
) -> None:
    with Wire(url, f"[[sim how={how} cut_after=37 itl_ms={itl_ms} tokens=50]]", stream=True, request_id="cut") as wire:
        assert wire.read_to_the_end() == how
    assert wire.received.count(b"data: {") == 37
    assert b'finish_reason":"' not in wire.received
    assert not wire.received.endswith(b"0\r\n\r\n")
    attempt = attempt_once(url, "cut", lambda attempt: attempt["finished"])
    assert (attempt["chunks"], attempt["fault"], attempt["cancelled"]) == (37, how, None)
    call(f"{url}/_sim/requests", "DELETE")


def test_a_reset_takes_back_nothing_that_was_sent_before_it(url: str) -> None:
    with Wire(url, "[[sim how=rst cut_after=200 tokens=201]]", stream=True, request_id="late", window=4_096) as wire:
        attempt_once(url, "late", lambda attempt: attempt["chunks"] == 200)
        assert wire.read_to_the_end() == "rst"
    assert wire.received.count(b"data: {") == 200


@pytest.mark.parametrize("how", ["fin", "rst"])
def test_a_cut_answer_promises_more_bytes_than_it_sends(url: str, how: str) -> None:
    with Wire(url, f"[[sim how={how} cut_after=1]]", stream=False) as wire:
        assert wire.read_to_the_end() == how
    head, _, body = wire.received.partition(b"\r\n\r\n")
    promised = int(head.lower().partition(b"content-length: ")[2].split()[0])
    assert 0 < len(body) < promised


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize("stream", [False, True])
def test_without_cut_after_the_connection_ends_before_the_status_line(url: str, how: str, *, stream: bool) -> None:
    with Wire(url, f"[[sim how={how}]]", stream=stream) as wire:
        assert wire.read_to_the_end() == how
    assert wire.received == b""


def test_cut_after_0_ends_the_connection_between_headers_and_the_first_chunk(url: str) -> None:
    with Wire(url, "[[sim how=fin cut_after=0]]", stream=True) as wire:
        assert wire.read_to_the_end() == "fin"
    assert wire.received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert wire.received.endswith(b"\r\n\r\n")
    assert b"data:" not in wire.received


def test_cuts_stop_after_their_times(url: str) -> None:
    call(f"{url}/_sim/requests", "DELETE")
    for attempt in (1, 2):
        with Wire(url, "[[sim how=rst cut_after=2 times=1]]", stream=True) as wire:
            if attempt == 1:
                assert wire.read_to_the_end() == "rst"
            else:
                wire.read_until(b"data: [DONE]\n\n\r\n0\r\n\r\n")


def test_a_cut_behind_the_last_event_does_not_happen(url: str) -> None:
    with Wire(url, "[[sim how=rst cut_after=99 tokens=3]]", stream=True) as wire:
        wire.read_until(b"data: [DONE]\n\n\r\n0\r\n\r\n")


@pytest.mark.parametrize(
    ("how", "last"),
    [
        ("end", b"null}]}\n\n\r\n"),
        ("done", b"data: [DONE]\n\n\r\n"),
        ("garbage", b"\x80\n\r\n"),
        ("error", b'"simulated_failure"}}\n\n\r\n'),
    ],
)
def test_a_stream_that_ends_well_for_http_lacks_its_end_for_us(url: str, how: str, last: bytes) -> None:
    with Wire(url, f"[[sim how={how} cut_after=3]]", stream=True) as wire:
        wire.read_until(b"\r\n0\r\n\r\n")
    assert wire.received.endswith(last + b"0\r\n\r\n")
    assert (b"[DONE]" in wire.received) is (how == "done")
    assert b'finish_reason":"' not in wire.received


def test_an_error_event_is_raised_by_the_sdk(sdk: OpenAI) -> None:
    stream = sdk.chat.completions.create(model="sim-small", messages=user("[[sim how=error cut_after=2]]"), stream=True)
    seen: list[ChatCompletionChunk] = []
    with pytest.raises(openai.APIError, match="told to fail"):
        seen.extend(stream)
    assert len(seen) == 2


@pytest.mark.parametrize("stream", [False, True])
def test_a_page_comes_instead_of_an_answer(url: str, *, stream: bool) -> None:
    with Wire(url, "[[sim how=html]]", stream=stream) as wire:
        wire.read_until(b"</h1>\n")
    assert wire.received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"content-type: text/html" in wire.received


@pytest.mark.parametrize("how", ["garbage", "end", "done", "error"])
def test_an_answer_that_is_broken_inside_is_whole_for_http(sdk: OpenAI, how: str) -> None:
    raw = sdk.chat.completions.with_raw_response.create(
        model="sim-small", messages=user(f"[[sim how={how} cut_after=1]]")
    )
    assert (raw.status_code, raw.headers["content-type"]) == (200, "application/json")
    if how == "error":
        assert json.loads(raw.content)["error"]["code"] == "simulated_failure"
    else:
        with pytest.raises(ValueError, match=r"JSON|codec|Expecting|Unterminated"):
            json.loads(raw.content)


# -- clients that leave ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "stream", "status"),
    [
        ("ttft_ms=600000", False, None),
        ("ttft_ms=600000", True, None),
        ("itl_ms=600000", False, None),
        ("itl_ms=600000", True, 200),
        ("how=stall", False, None),
        ("how=stall cut_after=0", True, 200),
        ("how=stall cut_after=3", True, 200),
        ("how=stall cut_after=1", False, 200),
    ],
)
@pytest.mark.parametrize("leaving", ["fin", "rst"])
def test_a_client_that_leaves_is_noticed_while_the_simulator_waits(
    url: str, script: str, leaving: str, status: int | None, *, stream: bool
) -> None:
    request_id = f"{script}{stream}{leaving}".replace(" ", "").replace("=", "")
    with Wire(url, f"[[sim {script}]]", stream=stream, request_id=request_id) as wire:
        attempt_once(url, request_id, lambda attempt: attempt["status"] == status)
        if status:
            wire.read_until(b"\r\n\r\n")
        if leaving == "rst":
            wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
    attempt = attempt_once(url, request_id, lambda attempt: attempt["cancelled"])
    assert attempt["finished"] is None
    assert attempt["cancelled"] > attempt["received"]


def test_a_client_that_stops_reading_an_instant_stream_and_leaves_is_noticed(url: str) -> None:
    with Wire(url, "[[sim tokens=100000]]", stream=True, request_id="backpressure") as wire:
        wire.read_until(b"data: {")
        before = attempt_once(url, "backpressure", lambda attempt: attempt["chunks"] > 0)
        assert before["finished"] is None
    attempt = attempt_once(url, "backpressure", lambda attempt: attempt["cancelled"])
    assert attempt["chunks"] < 100_000


def test_the_time_between_tokens_passes_between_all_of_them(sdk: OpenAI, url: str) -> None:
    prompt = user("[[sim itl_ms=20 tokens=4]]")
    headers = {"x-request-id": "itl"}
    assert (
        len(list(sdk.chat.completions.create(model="sim-small", messages=prompt, stream=True, extra_headers=headers)))
        == 4
    )
    attempt = attempt_once(url, "itl", lambda attempt: attempt["finished"])
    assert attempt["finished"] - attempt["first_byte"] >= 0.059


def test_the_log_counts_the_chunks_of_an_instant_stream_without_its_end_marker(url: str) -> None:
    with Wire(url, "[[sim tokens=40]]", stream=True, request_id="instant") as wire:
        wire.read_until(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    assert attempt_once(url, "instant", lambda attempt: attempt["finished"])["chunks"] == 40


def test_a_client_that_stays_through_every_wait_gets_the_whole_answer(sdk: OpenAI, url: str) -> None:
    stream = sdk.chat.completions.create(
        model="sim-small",
        messages=user("[[sim ttft_ms=2 itl_ms=1 tokens=5]]"),
        stream=True,
        extra_headers={"x-request-id": "stays"},
    )
    assert len(list(stream)) == 5
    attempt = attempt_once(url, "stays", lambda attempt: attempt["finished"])
    assert (attempt["chunks"], attempt["cancelled"]) == (5, None)


# -- the log ---------------------------------------------------------------------------------------------------------


def test_the_log_tells_each_attempt_and_hides_its_key(sdk: OpenAI, url: str) -> None:
    call(f"{url}/_sim/requests", "DELETE")
    sdk.chat.completions.create(model="sim-large", messages=user("canary"), extra_headers={"x-request-id": "log"})
    [attempt] = attempts(url, "log")
    assert (attempt["path"], attempt["model"], attempt["stream"]) == ("/v1/chat/completions", "sim-large", False)
    assert attempt["received"] <= attempt["first_byte"] <= attempt["finished"]
    assert attempt["headers"]["authorization"] == "[redacted]"
    assert "canary" not in json.dumps(attempt)
    assert call(f"{url}/_sim/requests?model=sim-small")["requests"] == []
    assert call(f"{url}/_sim/requests?after={attempt['seq']}")["requests"] == []


# -- the process -----------------------------------------------------------------------------------------------------


class Process:
    """`python -m simulator` with these settings."""

    def __init__(self, **settings: str) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SIMULATOR_")}
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "simulator"],
            env=environment | {f"SIMULATOR_{name}": value for name, value in settings.items()},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.popen.kill()
        self.popen.communicate(timeout=BOUND_S)

    def url(self) -> str:
        assert self.popen.stdout is not None
        return self.popen.stdout.readline().split()[-1]

    def end(self) -> tuple[int, str]:
        """Wait for the process; its exit status and what it said on stderr."""
        _, stderr = self.popen.communicate(timeout=BOUND_S)
        return self.popen.returncode, stderr


def test_a_bad_setting_is_one_line_and_exit_status_2() -> None:
    with Process(PORT="many") as process:
        status, stderr = process.end()
    assert status == 2
    assert stderr.startswith("SIMULATOR_PORT: ")
    assert stderr.count("\n") == 1


def test_a_taken_port_is_one_line_and_exit_status_2(url: str) -> None:
    with Process(PORT=url.rpartition(":")[2]) as process:
        status, stderr = process.end()
    assert (status, stderr) == (2, f"SIMULATOR_PORT: {url.rpartition(':')[2]}: {os.strerror(errno.EADDRINUSE)}\n")


def test_sigterm_ends_the_process_under_an_open_stream_without_a_word() -> None:
    with Process(PORT="0") as process, Wire(process.url(), "[[sim how=stall cut_after=1]]", stream=True) as wire:
        wire.read_until(b"data: {")
        process.popen.send_signal(signal.SIGTERM)
        status, stderr = process.end()
    assert (status, stderr) == (-signal.SIGTERM, "")

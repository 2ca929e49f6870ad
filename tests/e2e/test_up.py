"""`./justw up` and its commands: what a user sees, from the first start to Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import openai
import pytest
from redis import Redis

from devstack import env_file, local_http, ports
from e2e.up_process import STOP_S, UP, UpProcess, devstack, environment, free_offset, wait_until
from support.ports import free_port

if TYPE_CHECKING:
    from pathlib import Path

    from openai import OpenAI

pytestmark = pytest.mark.e2e


def ask(prompt: str) -> list[openai.types.chat.ChatCompletionMessageParam]:
    return [{"role": "user", "content": prompt}]


# What works once it is up


def test_the_official_sdk_chats(client: OpenAI) -> None:
    completion = client.chat.completions.create(model="sim-small", messages=ask("Say hello"))

    assert completion.choices[0].message.content
    assert completion.usage
    assert completion.usage.completion_tokens > 0


def test_the_official_sdk_streams_as_the_tokens_come(client: OpenAI) -> None:
    prompt = f"{uuid.uuid4()} [[sim tokens=5]]"

    chunks = list(client.chat.completions.create(model="sim-small", messages=ask(prompt), stream=True))

    assert sum(bool(chunk.choices and chunk.choices[0].delta.content) for chunk in chunks) == 5
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_the_official_sdk_embeds_and_lists_models(client: OpenAI) -> None:
    embedding = client.embeddings.create(model="sim-embed", input="hello").data[0].embedding

    assert len(embedding) == 256
    assert "sim-small" in {model.id for model in client.models.list()}


def test_a_wrong_key_is_401(client: OpenAI) -> None:
    with pytest.raises(openai.AuthenticationError) as raised:
        client.with_options(api_key="sw_dev_nonsense").models.list()

    assert raised.value.code == "invalid_api_key"


def test_an_unknown_model_is_404(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        client.chat.completions.create(model="no-such-model", messages=ask("hello"))

    assert raised.value.code == "model_not_found"


def test_a_request_without_messages_is_400(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(model="sim-small", messages=[])

    assert raised.value.type == "invalid_request_error"


def test_each_of_the_three_things_that_up_prints_works_when_pasted(stack: UpProcess) -> None:
    printed = stack.log.replace("\\\n", "")
    pasted = re.findall(r"^curl .*$", printed, re.MULTILINE) + re.findall(
        r"^[^\n]+ - <<'END'$.*?^END$", printed, re.MULTILINE | re.DOTALL
    )

    outputs = [
        subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True, timeout=30).stdout  # noqa: S603, S607  # what a user would do
        for command in pasted
    ]

    generated, streamed, said = outputs
    assert '"result":' in generated
    assert streamed.endswith("data: [DONE]\n\n")
    assert said.strip()


def test_a_shell_that_sources_dev_env_needs_no_more_for_the_sdk(stack: UpProcess) -> None:
    script = '. "$1"; exec "$2" -c "import openai; print(next(iter(openai.OpenAI().models.list())).id)"'

    printed = subprocess.run(  # noqa: S603  # ours
        ["sh", "-c", script, "sh", str(stack.local / "dev.env"), UP[0]],  # noqa: S607  # as above
        env=environment(stack.local, stack.offset),
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    ).stdout

    assert printed.startswith("sim-")


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ("valkey-state", {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}),
        ("valkey-limits", {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction"}),
        ("valkey-cache", {"appendonly": "no", "save": "", "maxmemory-policy": "allkeys-lfu", "maxmemory": "67108864"}),
    ],
)
def test_each_store_keeps_the_promise_of_its_policy(stack: UpProcess, part: str, expected: dict[str, str]) -> None:
    with Redis(port=ports.DEFAULTS[part] + stack.offset, decode_responses=True) as store:
        assert expected.items() <= store.config_get(*expected).items()


def test_demo_sees_everything_it_promises(stack: UpProcess) -> None:
    shown = devstack(stack.env, "demo")

    assert shown.returncode == 0, shown.stdout + shown.stderr
    for words in ("\nmiss ", "\nhit ", "20 pieces over", "503, 503, 200", " attempt "):
        assert words in shown.stdout
    assert "NOT SEEN" not in shown.stdout


def test_trace_prints_the_tree_of_the_last_request(stack: UpProcess) -> None:
    answer = local_http.request(
        f"{stack.client['SPILLWAY_URL']}/generate",
        body={"prompt": str(uuid.uuid4())},
        headers={"authorization": f"Bearer {stack.client['OPENAI_API_KEY']}"},
    )
    trace_id = answer.headers["x-trace-id"]

    wait_until(lambda: f"trace {trace_id}" in devstack(stack.env, "trace").stdout, 10, "its trace is the last")

    # Each service sends its spans in its own time, and the columns are as wide as the services that have.
    wait_until(lambda: "attempt" in devstack(stack.env, "trace", trace_id).stdout, 10, "inference's spans are there")
    tree = devstack(stack.env, "trace", trace_id, "--attributes").stdout
    assert "gateway    POST /generate" in tree
    assert "http.route = /generate" in tree
    assert f"trace {trace_id}" in devstack(stack.env, "trace", trace_id[:20]).stdout
    assert "'nonsense' is no trace id" in devstack(stack.env, "trace", "nonsense").stderr


def test_run_adds_a_replica_that_serves_the_same_keys(stack: UpProcess) -> None:
    port = free_port()
    command = [*UP[:-1], "run", "gateway", "--port", str(port)]
    with subprocess.Popen(command, env=stack.env, stdout=subprocess.PIPE, text=True) as replica:  # noqa: S603  # ours
        try:
            assert replica.stdout
            assert replica.stdout.readline() == f"gateway: http://127.0.0.1:{port}\n"
            wait_until(lambda: _is_ready(f"http://127.0.0.1:{port}/readyz"), 30, "the replica is ready")
            key = stack.client["OPENAI_API_KEY"]
            with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key, max_retries=0) as client:
                assert list(client.models.list())
        finally:
            replica.terminate()


# What is refused, in one clear line


def test_a_second_up_is_one_clear_line(stack: UpProcess) -> None:
    second = devstack(stack.env, "up")

    assert (second.returncode, second.stdout) == (1, "")
    pid = (stack.local / "up.pid").read_text()
    assert second.stderr == (
        f"up: a stack is running already (pid {pid}); use it, or stop it with ./justw down; a second one "
        "needs a SPILLWAY_LOCAL_DIR and a SPILLWAY_PORT_OFFSET of its own\n"
    )


def test_reset_refuses_while_the_stack_runs(stack: UpProcess) -> None:
    refused = devstack(stack.env, "reset")

    assert refused.returncode == 1
    assert (stack.local / "secrets.env").exists()


def test_a_taken_port_is_one_clear_line_and_nothing_is_started(tmp_path: Path) -> None:
    offset = free_offset()
    with socket.create_server((ports.HOST, 8082 + offset)):
        refused = devstack(environment(tmp_path / "local", offset), "up")

    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith(f"up: port {8082 + offset}, which cache needs, is taken")
    assert refused.stderr.count("\n") == 1


def test_an_upstream_that_cannot_be_reached_is_one_clear_line(tmp_path: Path) -> None:
    upstream = f"http://127.0.0.1:{free_port()}/v1"

    refused = devstack(environment(tmp_path / "local", free_offset(), UPSTREAM_BASE_URL=upstream), "up")

    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == f"up: the upstream {upstream} cannot be reached: Connection refused\n"


def test_a_bad_setting_stops_the_stack_and_is_named(tmp_path: Path) -> None:
    failed = devstack(environment(tmp_path / "local", free_offset(), CACHE_MAX_TTL_S="never"), "up")

    assert failed.returncode == 1
    assert "cache: CACHE_MAX_TTL_S" in failed.stdout, failed.stderr
    assert failed.stderr == "up: a part gave up, so the stack was stopped; its reason stands above\n"


def test_run_and_demo_and_trace_without_a_stack_say_so(tmp_path: Path) -> None:
    env = environment(tmp_path / "local", free_offset())

    assert devstack(env, "run", "cache").stderr == "run: no stack is running; start one with ./justw up\n"
    assert "no trace receiver answers" in devstack(env, "trace").stderr
    assert devstack(env, "down").stdout == "no stack is running\n"


# How it ends


def test_ctrl_c_leaves_no_process_within_5_s(tmp_path: Path) -> None:
    with UpProcess(tmp_path / "local", command=("./justw", "up")) as up:
        assert len(up.pids()) > 16

        up.interrupt()

        wait_until(up.is_gone, STOP_S, "everything stopped")
        assert up.process.wait(1) in (0, 130)


def test_ctrl_c_stops_a_service_that_hangs_as_well(tmp_path: Path) -> None:
    with UpProcess(tmp_path / "local") as up:
        up.pids()
        os.kill(up.service_pid("inference"), signal.SIGSTOP)

        up.interrupt()

        wait_until(up.is_gone, STOP_S, "everything stopped")


def test_a_killed_up_takes_its_parts_along_and_the_next_one_starts(tmp_path: Path) -> None:
    with UpProcess(tmp_path / "local") as killed:
        killed.pids()

        killed.process.kill()

        wait_until(killed.is_gone, STOP_S, "everything stopped")
    with UpProcess(tmp_path / "local", killed.offset) as up:
        assert _is_ready(f"{up.client['SPILLWAY_URL']}/readyz")


def test_data_and_secrets_survive_a_restart_and_reset_removes_them(tmp_path: Path) -> None:
    with UpProcess(tmp_path / "local") as up:
        made = local_http.request(
            f"{up.client['SPILLWAY_URL']}/admin/keys",
            body={"tenant": "acme", "name": "survives"},
            headers={"authorization": f"Bearer {up.client['SPILLWAY_ADMIN_KEY']}"},
        )
        key, before = made.json()["key"], env_file.read(up.local / "secrets.env")
        with subprocess.Popen([*UP[:-1], "run", "cache"], env=up.env, stdout=subprocess.PIPE, text=True) as replica:  # noqa: S603  # ours
            assert replica.stdout
            url = replica.stdout.readline().removeprefix("cache: ").strip()
            wait_until(lambda: _is_ready(f"{url}/readyz"), 30, "the replica is ready")
            assert devstack(up.env, "down").stdout == "stopped\n"
            assert replica.wait(0) == 0, "down has waited for it"

    with UpProcess(tmp_path / "local", up.offset) as again:
        assert env_file.read(again.local / "secrets.env") == before
        with openai.OpenAI(base_url=again.client["OPENAI_BASE_URL"], api_key=key, max_retries=0) as client:
            assert list(client.models.list())

    assert devstack(up.env, "reset").stdout == f"{up.local} removed\n"
    assert not up.local.exists()


def test_a_real_upstream_is_used_and_demo_says_what_it_skips(stack: UpProcess, tmp_path: Path) -> None:
    upstream = f"{stack.client['SPILLWAY_SIMULATOR_URL']}/v1"
    with UpProcess(tmp_path / "local", UPSTREAM_BASE_URL=upstream, UPSTREAM_API_KEY="sk-real") as up:
        assert up.pids("-m simulator") == []
        assert "sk-real" not in (up.local / "stack.env").read_text()

        shown = devstack(up.env, "demo")

        assert shown.returncode == 0, shown.stdout + shown.stderr
        assert "skipped: a real upstream does not fail on request" in shown.stdout


# When one part dies


def test_a_killed_cache_service_fails_no_request_and_is_started_again(stack: UpProcess) -> None:
    url, key = stack.client["SPILLWAY_URL"], stack.client["OPENAI_API_KEY"]
    killed = stack.service_pid("cache")

    def request(number: int) -> int:
        if number == 30:
            os.kill(killed, signal.SIGKILL)
        body = {"prompt": f"question {number % 20}"}
        return local_http.request(f"{url}/generate", body=body, headers={"authorization": f"Bearer {key}"}).status

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(request, range(200)))

    assert statuses == [200] * 200
    wait_until(lambda: _is_ready(f"{stack.client['SPILLWAY_CACHE_URL']}/readyz"), 30, "the cache service is back")
    assert stack.service_pid("cache") != killed
    assert re.search(r"cache +\| ended with status 137; starting it again", stack.log)


def _is_ready(url: str) -> bool:
    try:
        return local_http.request(url).status == 200
    except local_http.UnreachableError:
        return False

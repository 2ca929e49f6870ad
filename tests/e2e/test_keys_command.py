"""`./justw keys` beside a running stack finds it by itself."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest
from openai import OpenAI

from e2e.up_process import CHECKOUT, wait_until
from gateway.cli.commands import main

if TYPE_CHECKING:
    from e2e.up_process import UpProcess

pytestmark = pytest.mark.e2e


def just(stack: UpProcess, *arguments: str) -> str:
    command = [str(CHECKOUT / "justw"), *arguments]
    done = subprocess.run(command, env=stack.env, cwd=CHECKOUT, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603  # ours
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_key_made_on_the_command_line_chats(stack: UpProcess) -> None:
    made = json.loads(just(stack, "keys", "create", "--tenant", "acme", "--name", "with a blank", "--json"))
    assert made["name"] == "with a blank"
    with OpenAI(base_url=stack.client["OPENAI_BASE_URL"], api_key=made["key"], max_retries=0) as client:
        assert client.models.list().data
    assert made["id"] in just(stack, "keys", "list")
    assert "key.create" in just(stack, "audit", "list")
    assert json.loads(just(stack, "tenants", "list", "--json")) == []


def test_usage_is_a_line_for_each_model_and_their_sum(stack: UpProcess, capsys: pytest.CaptureFixture[str]) -> None:
    def usage(tenant: str) -> list[list[str]]:
        assert main(["usage", "list", "--tenant", tenant], stack.client) == 0
        return [line.split() for line in capsys.readouterr().out.splitlines()]

    assert usage("olivia")[0][:3] == ["nothing", "was", "used"]
    assert main(["keys", "create", "--tenant", "olivia", "--name", "ci", "--json"], stack.client) == 0
    key = json.loads(capsys.readouterr().out)["key"]
    with OpenAI(base_url=stack.client["OPENAI_BASE_URL"], api_key=key) as client:
        for model in ("sim-small", "sim-large"):
            client.chat.completions.create(model=model, messages=[{"role": "user", "content": "What does it cost?"}])
    wait_until(lambda: len(usage("olivia")) == 4, 10, "both calls are counted, under a head and above their sum")
    head, *rows, total = usage("olivia")
    requests, output = head.index("requests"), head.index("output_tokens")
    assert [row[requests] for row in rows] == ["1", "1"]
    assert total[0] == "total"
    assert int(total[output]) == sum(int(row[output]) for row in rows) > 0

"""`./justw keys` beside a running stack finds it by itself."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest
from openai import OpenAI

from e2e.up_process import CHECKOUT

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

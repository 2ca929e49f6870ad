"""Catalogues as operators write them, served over a transport that is never asked, and questions for their models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx2

from common.deadline import Deadline
from common.identity import HopIdentity
from inference.models_file import read
from inference.named_secrets import NamedSecrets
from inference.questions import Question
from inference.served_models import ServedModels, Workshop

if TYPE_CHECKING:
    from inference.catalogue import Catalogue
    from inference.targets import Policy

NO_SECRETS = NamedSecrets({})
MODEL = "sim-small"


def target(name: str, **fields: Any) -> str:
    """One target in YAML's flow style."""
    given = {"name": name, "base_url": f"http://{name}/v1"} | fields
    return "{" + ", ".join(f"{key}: {value}" for key, value in given.items()) + "}"


def model(*targets: str, name: str = MODEL, **fields: Any) -> str:
    """One model of a file: its lines."""
    lines = [f"  {name}:", "    targets:", *(f"      - {one}" for one in targets)]
    return "\n".join([*lines, *(f"    {key}: {value}" for key, value in fields.items())]) + "\n"


def models_yaml(*models: str) -> str:
    return "version: 1\nmodels:\n" + "".join(models)


ONE_TARGET = models_yaml(model(target("a")))


def catalogue(text: str) -> Catalogue:
    return read(text.encode(), "models.yaml", NO_SECRETS)


def served(text: str, policy: Policy, before: ServedModels | None = None) -> ServedModels:
    return Workshop(httpx2.AsyncClient(), policy).serve(catalogue(text), NO_SECRETS, before)


def question(name: str = MODEL, *, tenant: str = "alice", deadline: Deadline | None = None, **fields: Any) -> Question:
    body = {"model": name, "messages": [{"role": "user", "content": "?"}], **fields.pop("body", {})}
    given = deadline or Deadline.after(60)
    identity = fields.pop("identity", None) or HopIdentity(tenant, "k")
    return Question("chat", "/chat/completions", name, body, "req_1", given, identity=identity, **fields)

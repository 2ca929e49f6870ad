"""Writes `components/plain-secrets/secrets.yaml`: random Secrets for a cluster without a secret manager, made once.

What two services share is one Secret that both refer to, so the two cannot differ. Nothing but Python is needed.
"""

from __future__ import annotations

import json
import secrets
import sys
from pathlib import Path

TARGET = Path(__file__).parent / "components" / "plain-secrets" / "secrets.yaml"
STORES = ("state", "limits", "cache")
HOPS = ("gateway", "inference", "cache", "jobs")


def made() -> dict[str, dict[str, str]]:
    """Every Secret by its name, and its keys; each value has 256 random bits."""
    found = {f"hop-{audience}": {"current": secrets.token_urlsafe(32)} for audience in HOPS}
    found["seal-jobs"] = {"current": secrets.token_urlsafe(32)}
    found["gateway"] = {name: secrets.token_urlsafe(32) for name in ("key-pepper", "seal-secret", "admin-key")}
    for store in STORES:
        password = secrets.token_urlsafe(32)
        found[f"store-{store}"] = {"password": password, "url": f"redis://:{password}@valkey-{store}:6379/0"}
    return found


def manifests(values: dict[str, dict[str, str]]) -> str:
    """The same as YAML, of which JSON is a part."""
    documents = [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": "spillway"}},
            "type": "Opaque",
            "stringData": keys,
        }
        for name, keys in values.items()
    ]
    return "".join(f"---\n{json.dumps(document, indent=2)}\n" for document in documents)


def main() -> None:
    if TARGET.exists():
        return  # another pepper would make every key invalid
    text = manifests(made())
    TARGET.touch(mode=0o600)
    TARGET.write_text(text, encoding="utf-8")
    sys.stderr.write(f"Wrote {TARGET.name}: random secrets, for this cluster alone. Keep it, and keep it out of git.\n")


if __name__ == "__main__":
    main()

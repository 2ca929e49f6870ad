"""Reads a Prometheus page."""

from __future__ import annotations

import urllib.request
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from prometheus_client.samples import Sample

BOUND_S = 10


def scrape(url: str, headers: dict[str, str] | None = None) -> list[Sample]:
    """What a Prometheus page shows."""
    request = urllib.request.Request(url, headers=headers or {})  # noqa: S310  # ours
    with urllib.request.urlopen(request, timeout=BOUND_S) as page:  # noqa: S310  # as above
        families = text_string_to_metric_families(page.read().decode())
        return [sample for family in families for sample in family.samples]

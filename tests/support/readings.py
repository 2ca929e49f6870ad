"""Reads a Prometheus page."""

from __future__ import annotations

import urllib.request
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from prometheus_client import Metric
    from prometheus_client.samples import Sample

BOUND_S = 10


def families(url: str) -> list[Metric]:
    """What a Prometheus page shows."""
    with urllib.request.urlopen(url, timeout=BOUND_S) as page:  # noqa: S310  # ours
        return list(text_string_to_metric_families(page.read().decode()))


def scrape(url: str) -> list[Sample]:
    return [sample for family in families(url) for sample in family.samples]

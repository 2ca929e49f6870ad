"""What the dashboards are made of: panels in rows, as Grafana's JSON.

A panel says the question it answers and its unit, which Grafana calls by ids of its own (`reqps`, `s`, `percentunit`).
Source: https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Json = dict[str, Any]

PROMETHEUS = {"type": "prometheus", "uid": "prometheus"}
WINDOW = "$__rate_interval"
"""Grafana makes this at least four scrapes long, so that a rate always has samples."""
_SCHEMA_VERSION = 39
_GRID_WIDTH = 24
_GRAPH_HEIGHT = 8
_FIGURE_HEIGHT = 4


@dataclass(frozen=True)
class Query:
    expr: str
    legend: str = ""
    has_exemplars: bool = False
    """Latencies have: a point on the graph is then a link to the trace of one such request."""


@dataclass(frozen=True)
class Panel:
    title: str
    asks: str
    """The question it answers."""
    unit: str
    queries: tuple[Query, ...]
    kind: str = "timeseries"
    height: int = _GRAPH_HEIGHT
    defaults: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Variable:
    """A choice at the top, of the values that one label of one metric has: labels are bounded, so the list is."""

    name: str
    label: str
    metric: str


@dataclass(frozen=True)
class Dashboard:
    uid: str
    title: str
    asks: str
    rows: tuple[Row, ...]
    variables: tuple[Variable, ...] = ()


def graph(title: str, asks: str, unit: str, *queries: Query, is_stacked: bool = False) -> Panel:
    custom: Json = {"fillOpacity": 10, "showPoints": "never"}
    if is_stacked:
        custom = {"fillOpacity": 30, "showPoints": "never", "stacking": {"mode": "normal"}}
    options = {
        "legend": {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"]},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return Panel(title, asks, unit, queries, defaults={"min": 0, "custom": custom}, options=options)


def figure(title: str, asks: str, unit: str, query: Query, *, red_from: float | None = None) -> Panel:
    """One number; `red_from` is where it begins to be bad, in the panel's unit."""
    steps: list[Json] = [{"color": "green", "value": None}]
    if red_from is not None:
        steps.append({"color": "red", "value": red_from})
    options = {"reduceOptions": {"calcs": ["lastNotNull"]}, "graphMode": "area", "colorMode": "value"}
    defaults = {"thresholds": {"mode": "absolute", "steps": steps}, "noValue": "none"}
    return Panel(title, asks, unit, (query,), "stat", _FIGURE_HEIGHT, defaults, options)


def timeline(title: str, asks: str, query: Query, states: Mapping[int, tuple[str, str]]) -> Panel:
    """Which state each series was in, when: `states` gives a value its word and its colour."""
    words = {str(value): {"text": text, "color": color} for value, (text, color) in states.items()}
    defaults = {"mappings": [{"type": "value", "options": words}], "custom": {"fillOpacity": 70}}
    return Panel(title, asks, "none", (query,), "state-timeline", defaults=defaults, options={"showValue": "never"})


def rate(metric: str, where: str = "", *, by: Sequence[str] = ()) -> str:
    """A counter's rate, over all replicas."""
    return f"{_sum(by)} (rate({_select(metric, where)}[{WINDOW}]))"


def ratio(part: str, whole: str) -> str:
    """A share of 0 to 1; parts that never occurred are 0, no traffic at all is no value."""
    return f"({part} or vector(0)) / {whole}"


def level(metric: str, where: str = "", *, by: Sequence[str] = (), function: str = "sum") -> str:
    """A gauge, over all replicas."""
    grouping = f" by ({', '.join(by)})" if by else ""
    return f"{function}{grouping} ({_select(metric, where)})"


def quantile(share: float, histogram: str, where: str = "", *, by: Sequence[str] = ()) -> str:
    return f"histogram_quantile({share}, {rate(f'{histogram}_bucket', where, by=('le', *by))})"


def quantiles(histogram: str, where: str = "", *, has_exemplars: bool = True) -> tuple[Query, ...]:
    """The median and the slowest twentieth and hundredth."""
    return tuple(
        Query(quantile(share, histogram, where), name, has_exemplars)
        for share, name in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
    )


def render(dashboard: Dashboard) -> Json:
    """Give Grafana's JSON of a dashboard, which is read-only there: changes are made here."""
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.asks,
        "tags": ["spillway"],
        "schemaVersion": _SCHEMA_VERSION,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "links": [{"type": "dashboards", "title": "Spillway", "tags": ["spillway"], "keepTime": True}],
        "templating": {"list": [_variable(variable) for variable in dashboard.variables]},
        "panels": list(_laid_out(dashboard.rows)),
    }


def _laid_out(rows: Sequence[Row]) -> Iterator[Json]:
    """The panels of a row share its width evenly and are as high as its highest."""
    ids = count(1)
    y = 0
    for row in rows:
        yield {
            "id": next(ids),
            "type": "row",
            "title": row.title,
            "collapsed": False,
            "panels": [],
            "gridPos": {"x": 0, "y": y, "w": _GRID_WIDTH, "h": 1},
        }
        width = _GRID_WIDTH // len(row.panels)
        height = max(panel.height for panel in row.panels)
        for column, panel in enumerate(row.panels):
            position = {"x": column * width, "y": y + 1, "w": width, "h": height}
            yield _panel(panel, next(ids), position)
        y += 1 + height


def _panel(panel: Panel, panel_id: int, position: Json) -> Json:
    return {
        "id": panel_id,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.asks,
        "datasource": PROMETHEUS,
        "gridPos": position,
        "fieldConfig": {"defaults": {"unit": panel.unit, **panel.defaults}, "overrides": []},
        "options": dict(panel.options),
        "targets": [_target(query, ref) for query, ref in zip(panel.queries, "ABCDEFGHIJ", strict=False)],
    }


def _target(query: Query, ref: str) -> Json:
    return {
        "refId": ref,
        "datasource": PROMETHEUS,
        "expr": query.expr,
        "legendFormat": query.legend or "__auto",
        "exemplar": query.has_exemplars,
        "range": True,
    }


def _variable(variable: Variable) -> Json:
    query = f"label_values({variable.metric}, {variable.label})"
    return {
        "name": variable.name,
        "label": variable.name,
        "type": "query",
        "datasource": PROMETHEUS,
        "definition": query,
        "query": {"query": query, "refId": variable.name},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _sum(by: Sequence[str]) -> str:
    return f"sum by ({', '.join(by)})" if by else "sum"


def _select(metric: str, where: str) -> str:
    return f"{metric}{{{where}}}" if where else metric

"""Overview: whether callers get good answers in time, and if not, which service it is."""

from __future__ import annotations

from devstack.dashboards.panels import (
    Dashboard,
    Query,
    Row,
    Variable,
    figure,
    graph,
    level,
    quantile,
    quantiles,
    rate,
    ratio,
)

_HTTP = "http_server_request_duration_seconds"
_CALLS = "http_client_request_duration_seconds"
API = 'job="gateway",http_route!~"/admin/.*"'
"""What callers ask of the gateway, which does not count health checks. What is refused at the door has no route."""
_SERVICE = 'job=~"$service"'
_FAILED = 'http_response_status_code=~"5.."'

_BURN = "max by (slo) (spillway:slo_bad:ratio_rate1h / on (slo) spillway:slo_budget:ratio)"

_FIGURES = Row(
    "Is it well?",
    (
        figure(
            "Alerts firing",
            "Is anything wrong that has a runbook?",
            "none",
            Query('count(ALERTS{alertstate="firing"}) or vector(0)'),
            red_from=1,
        ),
        figure("Requests", "How much is asked of the API?", "reqps", Query(rate(f"{_HTTP}_count", API))),
        figure(
            "Failed (5xx)",
            "Which share of the API's answers are the platform's or an upstream's failure?",
            "percentunit",
            Query(ratio(rate(f"{_HTTP}_count", f"{API},{_FAILED}"), rate(f"{_HTTP}_count", API))),
            red_from=0.001,
        ),
        figure(
            "Slowest twentieth (p95)",
            "How long does the API take at most, for nineteen requests of twenty? A stream counts to its end.",
            "s",
            Query(quantile(0.95, _HTTP, API)),
            red_from=30,
        ),
        figure(
            "Error budget burnt, 1 h",
            "How many times faster than allowed is the worst objective's error budget used up? 1 is just in budget.",
            "none",
            Query(f"max({_BURN})"),
            red_from=6,
        ),
        figure(
            "Cost",
            "What do the upstreams' answers cost, at the catalogue's prices, if it goes on like this for an hour?",
            "currencyUSD",
            Query(f"3600 * {rate('spillway_cost_usd_total')}"),
        ),
    ),
)

_CALLERS = Row(
    "What callers see",
    (
        graph(
            "Answers by status",
            "Which answers do callers get, and since when?",
            "reqps",
            Query(rate(f"{_HTTP}_count", API, by=["http_response_status_code"]), "{{http_response_status_code}}"),
            is_stacked=True,
        ),
        graph(
            "Duration",
            "How long do callers wait? Points are single requests: follow one to its trace.",
            "s",
            *quantiles(_HTTP, API),
        ),
        graph(
            "Refused by the platform",
            "Why, and on whose account, are requests refused?",
            "reqps",
            Query(rate("spillway_refusals_total", 'job="gateway"', by=["reason", "scope"]), "{{reason}} {{scope}}"),
            is_stacked=True,
        ),
    ),
)

_ROUTES = Row(
    "By route",
    (
        graph(
            "Requests by route",
            "What do callers use?",
            "reqps",
            Query(rate(f"{_HTTP}_count", API, by=["http_route"]), "{{http_route}}"),
        ),
        graph(
            "p95 by route",
            "Which route is slow?",
            "s",
            Query(quantile(0.95, _HTTP, API, by=["http_route"]), "{{http_route}}", has_exemplars=True),
        ),
        graph(
            "Error budget burnt",
            "How fast is each objective's error budget used up, short and long? 14.4 and 6 wake somebody.",
            "none",
            Query("spillway:slo_bad:ratio_rate5m / on (slo) spillway:slo_budget:ratio", "{{slo}} 5 min"),
            Query("spillway:slo_bad:ratio_rate1h / on (slo) spillway:slo_budget:ratio", "{{slo}} 1 h"),
            Query("spillway:slo_bad:ratio_rate6h / on (slo) spillway:slo_budget:ratio", "{{slo}} 6 h"),
        ),
    ),
)

_HOPS = Row(
    "Which hop is it?",
    (
        graph(
            "Server p95 by service",
            "Which service takes its time? What calls others includes them.",
            "s",
            Query(quantile(0.95, _HTTP, _SERVICE, by=["job"]), "{{job}}", has_exemplars=True),
        ),
        graph(
            "Client p95 by hop",
            "Which call from which service is slow?",
            "s",
            Query(
                quantile(0.95, _CALLS, _SERVICE, by=["job", "server_address", "server_port"]),
                "{{job}} → {{server_address}}:{{server_port}}",
                has_exemplars=True,
            ),
        ),
        graph(
            "Store p95 by operation",
            "Is a store slow, and for which operation?",
            "s",
            Query(
                quantile(0.95, "db_client_operation_duration_seconds", _SERVICE, by=["job", "db_operation_name"]),
                "{{job}} {{db_operation_name}}",
                has_exemplars=True,
            ),
        ),
        graph(
            "Failed calls between services",
            "Which call fails without an answer, or with a 5xx?",
            "reqps",
            Query(
                rate(
                    f"{_CALLS}_count",
                    f'{_SERVICE},error_type!~"|4..|CancelledError"',
                    by=["job", "server_address", "error_type"],
                ),
                "{{job}} → {{server_address}} {{error_type}}",
            ),
        ),
    ),
)

_PROCESSES = Row(
    "Processes",
    (
        graph(
            "Replicas up",
            "How many processes of each service answer Prometheus?",
            "none",
            Query('sum by (job) (up{job=~"$service"})', "{{job}}"),
        ),
        graph(
            "Requests in progress",
            "How many requests does each service work on, streams included?",
            "none",
            Query(level("http_server_active_requests", _SERVICE, by=["job"]), "{{job}}"),
        ),
        graph(
            "Event loop lag",
            "Which process is out of CPU? From 0.25 s it refuses new work.",
            "s",
            Query(
                level("spillway_event_loop_lag_seconds", _SERVICE, by=["job", "instance"], function="max"),
                "{{job}} {{instance}}",
            ),
        ),
        graph(
            "CPU",
            "How many cores does each process use? One is all that an event loop can.",
            "none",
            Query(rate("process_cpu_time_seconds_total", _SERVICE, by=["job", "instance"]), "{{job}} {{instance}}"),
        ),
    ),
)

_PROTECTION = Row(
    "Protecting itself",
    (
        graph(
            "Memory",
            "Which process grows?",
            "bytes",
            Query(level("spillway_memory_usage_bytes", _SERVICE, by=["job", "instance"]), "{{job}} {{instance}}"),
        ),
        graph(
            "Turned away at the door",
            "Which service refuses new work because it has too much, and what ran out?",
            "reqps",
            Query(rate("spillway_shed_total", _SERVICE, by=["job", "reason"]), "{{job}} {{reason}}"),
        ),
        graph(
            "Spans dropped",
            "Are traces missing because the collector does not take them?",
            "cps",
            Query(rate("spillway_telemetry_dropped_total", _SERVICE, by=["job", "signal"]), "{{job}} {{signal}}"),
        ),
    ),
)

OVERVIEW = Dashboard(
    "spillway-overview",
    "Spillway: Overview",
    "Do callers get good answers in time, and if not, which service is it?",
    (_FIGURES, _CALLERS, _ROUTES, _HOPS, _PROCESSES, _PROTECTION),
    (Variable("service", "job", "http_server_active_requests"),),
)

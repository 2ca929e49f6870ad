"""Cache and limits: what the cache spares, who is held back by which limit, and who waits at the entrance."""

from __future__ import annotations

from devstack.dashboards.panels import (
    WINDOW,
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

_REQUESTS = "spillway_cache_requests_total"
_ADMISSIONS = "spillway_limits_admissions_total"
_DECIDED = 'outcome!="shadow"'
"""A limit that only watches counts beside the decision."""
_CHOSEN = 'endpoint=~"$endpoint"'
_SPARED = 'outcome=~"hit|coalesced"'

_FIGURES = Row(
    "Is it working?",
    (
        figure(
            "Spared calls",
            "Which share of the requests cost no upstream call?",
            "percentunit",
            Query(ratio(rate(_REQUESTS, f"{_CHOSEN},{_SPARED}"), rate(_REQUESTS, _CHOSEN))),
        ),
        figure(
            "Entries",
            "How many answers does the cache hold?",
            "none",
            Query(level("spillway_cache_entries", function="max")),
        ),
        figure(
            "Broken seals, 1 h",
            "Did an entry not open: damaged, another tenant's, another secret's?",
            "none",
            Query("sum(increase(spillway_cache_broken_seals_total[1h]))"),
            red_from=1,
        ),
        figure(
            "Refused by limits",
            "Which share of the requests is over a limit?",
            "percentunit",
            Query(ratio(rate(_ADMISSIONS, 'outcome="refused"'), rate(_ADMISSIONS, _DECIDED))),
            red_from=0.1,
        ),
        figure(
            "Admitted without a store, 1 h",
            "Did we fail open: admit without being able to check?",
            "none",
            Query("sum(increase(spillway_fail_open_total[1h])) or vector(0)"),
            red_from=1,
        ),
        figure(
            "Waiting at the entrance",
            "How many requests wait for a slot?",
            "none",
            Query(level("spillway_admission_queue_length")),
            red_from=50,
        ),
    ),
)

_CACHE = Row(
    "What does the cache spare?",
    (
        graph(
            "Requests by outcome",
            "What becomes of the requests at the cache?",
            "reqps",
            Query(rate(_REQUESTS, _CHOSEN, by=["outcome"]), "{{outcome}}"),
            is_stacked=True,
        ),
        graph(
            "Spared calls by endpoint",
            "Where is the cache worth most?",
            "percentunit",
            Query(
                f"{rate(_REQUESTS, f'{_CHOSEN},{_SPARED}', by=['endpoint'])}"
                f" / {rate(_REQUESTS, _CHOSEN, by=['endpoint'])}",
                "{{endpoint}}",
            ),
        ),
        graph(
            "Lookups at the cache service",
            "What does the cache service answer: hit, lead or follow?",
            "reqps",
            Query(rate("spillway_cache_lookups_total", by=["outcome"]), "{{outcome}}"),
        ),
        graph(
            "Answers stored",
            "Are answers kept, or dropped because the cache is too slow?",
            "reqps",
            Query(rate("spillway_cache_puts_total", by=["outcome"]), "{{outcome}}"),
        ),
    ),
)

_STORE = Row(
    "The cache's store",
    (
        graph(
            "Operations p95",
            "Is the cache's store slow? A lookup has 50 ms, all told.",
            "s",
            Query(
                quantile(0.95, "db_client_operation_duration_seconds", 'job="cache"', by=["db_operation_name"]),
                "{{db_operation_name}}",
                has_exemplars=True,
            ),
        ),
        graph(
            "Memory",
            "How full is the cache?",
            "bytes",
            Query(level("spillway_cache_memory_usage_bytes", function="max"), "used"),
        ),
        graph(
            "Evictions",
            "Is the cache too small, so that answers leave before their time?",
            "cps",
            Query(f"max (rate(spillway_cache_evictions_total[{WINDOW}]))", "evicted"),
        ),
        graph(
            "Flights",
            "How many answers are under way that others may follow?",
            "none",
            Query(level("spillway_cache_flights"), "flights"),
        ),
    ),
)

_LIMITS = Row(
    "Who is held back?",
    (
        graph(
            "Admissions by outcome",
            "What do the limits decide? `degraded` is this replica's share alone.",
            "reqps",
            Query(rate(_ADMISSIONS, _DECIDED, by=["outcome"]), "{{outcome}}"),
            is_stacked=True,
        ),
        graph(
            "Refused by limit",
            "Which limit refuses, or would (`shadow`), and whose is it?",
            "reqps",
            Query(
                rate(_ADMISSIONS, 'outcome=~"refused|shadow"', by=["outcome", "limit", "scope"]),
                "{{outcome}} {{scope}} {{limit}}",
            ),
        ),
        graph(
            "Limits used (p95)",
            "How close to their limits are callers? 1 is the limit.",
            "percentunit",
            Query(quantile(0.95, "spillway_limits_utilization", by=["limit"]), "{{limit}}", has_exemplars=True),
        ),
        graph(
            "Admitted without a store",
            "Which check was left out because its store is away?",
            "reqps",
            Query(rate("spillway_fail_open_total", by=["mechanism"]), "{{mechanism}}"),
        ),
    ),
)

_ENTRANCE = Row(
    "Who waits at the entrance?",
    (
        graph(
            "Slots",
            "How many requests may be with inference, how many are, how many wait?",
            "none",
            Query(level("spillway_admission_in_flight"), "in flight"),
            Query(level("spillway_admission_limit"), "limit"),
            Query(level("spillway_admission_queue_length"), "waiting"),
        ),
        graph(
            "Wait",
            "How long does a request wait for its slot? Points lead to traces.",
            "s",
            *quantiles("spillway_admission_wait_duration_seconds"),
        ),
        graph(
            "Store operations p95",
            "Are the limits' or the state store slow for the gateway?",
            "s",
            Query(
                quantile(0.95, "db_client_operation_duration_seconds", 'job="gateway"', by=["db_operation_name"]),
                "{{db_operation_name}}",
                has_exemplars=True,
            ),
        ),
    ),
)

_KEYS = Row(
    "Keys and retries of callers",
    (
        graph("Failed logins", "Does somebody try keys?", "cps", Query(rate("spillway_failed_logins_total"), "failed")),
        graph(
            "Idempotency keys",
            "Do callers repeat requests, and are they answered from the first run?",
            "reqps",
            Query(rate("spillway_idempotency_requests_total", by=["outcome"]), "{{outcome}}"),
        ),
        graph(
            "Refused for another reason",
            "What else does the gateway refuse, limits left out?",
            "reqps",
            Query(rate("spillway_refusals_total", 'job="gateway",scope!~"key|tenant"', by=["reason"]), "{{reason}}"),
        ),
    ),
)

CACHE_AND_LIMITS = Dashboard(
    "spillway-cache-limits",
    "Spillway: Cache and limits",
    "What does the cache spare, who is held back by which limit, and who waits at the entrance?",
    (_FIGURES, _CACHE, _STORE, _LIMITS, _ENTRANCE, _KEYS),
    (Variable("endpoint", "endpoint", _REQUESTS),),
)

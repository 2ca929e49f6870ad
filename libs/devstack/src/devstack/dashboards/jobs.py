"""Jobs: whether accepted work is done, how long it waits, and what ends as a dead letter."""

from __future__ import annotations

from devstack.dashboards.panels import Dashboard, Query, Row, figure, graph, level, quantile, quantiles, rate, ratio

_FINISHED = "spillway_jobs_finished_total"
_BOTH = 'job=~"jobs|worker"'
_LENGTH = "spillway_jobs_queue_length"

_FIGURES = Row(
    "Is accepted work done?",
    (
        figure(
            "Waiting",
            "How many jobs wait for a worker?",
            "none",
            Query(level(_LENGTH, 'state="queued"', function="max")),
        ),
        figure(
            "Oldest",
            "How long has the oldest of them waited?",
            "s",
            Query(level("spillway_jobs_queue_oldest_age_seconds", function="max")),
            red_from=900,
        ),
        figure("Submitted", "How many jobs are accepted?", "cps", Query(rate("spillway_jobs_submitted_total"))),
        figure(
            "Failed",
            "Which share of the jobs that ended did not succeed?",
            "percentunit",
            Query(ratio(rate(_FINISHED, 'state!="succeeded"'), rate(_FINISHED))),
            red_from=0.05,
        ),
        figure(
            "Dead letters",
            "How many jobs used up their attempts and wait for somebody to look?",
            "none",
            Query(level("spillway_jobs_dead_letters", function="max")),
            red_from=1,
        ),
        figure("Workers", "How many workers answer Prometheus?", "none", Query('sum(up{job="worker"})')),
    ),
)

_QUEUE = Row(
    "How long does work wait?",
    (
        graph(
            "Jobs by state",
            "Does work pile up: waiting for workers (queued), or for the gateway (delayed)?",
            "none",
            Query(level(_LENGTH, by=["state"], function="max"), "{{state}}"),
            is_stacked=True,
        ),
        graph(
            "Age of the oldest",
            "Does the queue move?",
            "s",
            Query(level("spillway_jobs_queue_oldest_age_seconds", function="max"), "oldest"),
        ),
        graph(
            "Wait",
            "How long from ready to started?",
            "s",
            *quantiles("spillway_jobs_queue_wait_seconds", has_exemplars=False),
        ),
    ),
)

_WORK = Row(
    "What becomes of it?",
    (
        graph(
            "Submitted by endpoint",
            "What is submitted as a job?",
            "cps",
            Query(rate("spillway_jobs_submitted_total", by=["endpoint"]), "{{endpoint}}"),
            is_stacked=True,
        ),
        graph(
            "Finished by state",
            "How do jobs end?",
            "cps",
            Query(rate(_FINISHED, by=["state"]), "{{state}}"),
            is_stacked=True,
        ),
        graph(
            "Attempts by outcome",
            "How do single attempts end, and how many does a job need?",
            "cps",
            Query(rate("spillway_jobs_attempts_total", by=["outcome"]), "{{outcome}}"),
        ),
        graph(
            "Duration",
            "How long do jobs run, all their attempts? Points lead to traces.",
            "s",
            *quantiles("spillway_jobs_duration_seconds"),
        ),
    ),
)

_MACHINE = Row(
    "What might hold it up?",
    (
        graph(
            "Store operations p95",
            "Is the state store slow for jobs?",
            "s",
            Query(
                quantile(0.95, "db_client_operation_duration_seconds", _BOTH, by=["job", "db_operation_name"]),
                "{{job}} {{db_operation_name}}",
                has_exemplars=True,
            ),
        ),
        graph(
            "Workers' calls p95",
            "Does the gateway take long for the workers' requests?",
            "s",
            Query(
                quantile(
                    0.95, "http_client_request_duration_seconds", 'job="worker"', by=["http_response_status_code"]
                ),
                "{{http_response_status_code}}",
                has_exemplars=True,
            ),
        ),
        graph(
            "Dead letters over time",
            "Since when are there dead letters?",
            "none",
            Query(level("spillway_jobs_dead_letters", function="max"), "dead letters"),
        ),
        graph(
            "Event loop lag",
            "Is a worker out of CPU? One that stalls for 12 s loses its jobs to others.",
            "s",
            Query(
                level("spillway_event_loop_lag_seconds", _BOTH, by=["job", "instance"], function="max"),
                "{{job}} {{instance}}",
            ),
        ),
    ),
)

JOBS = Dashboard(
    "spillway-jobs",
    "Spillway: Jobs",
    "Is accepted work done, how long does it wait, and what ends as a dead letter?",
    (_FIGURES, _QUEUE, _WORK, _MACHINE),
)

"""Models and targets: which model or upstream is slow, failing, expensive or spared."""

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
    rate,
    ratio,
    timeline,
)

_DURATION = "gen_ai_client_operation_duration_seconds"
_FIRST_CHUNK = "gen_ai_client_operation_time_to_first_chunk_seconds"
_TOKENS = "gen_ai_client_token_usage"
_MODEL = "gen_ai_request_model"
_CHOSEN = f'{_MODEL}=~"$model"'
_OUTPUT = f'{_CHOSEN},gen_ai_token_type="output"'
_TARGET = (_MODEL, "spillway_target")
_MODEL_LEGEND = "{{gen_ai_request_model}}"
_TARGET_LEGEND = "{{gen_ai_request_model}} → {{spillway_target}}"

_FIGURES = Row(
    "Is any model in trouble?",
    (
        figure(
            "Calls",
            "How many completions and embeddings are asked of upstreams?",
            "reqps",
            Query(rate(f"{_DURATION}_count", _CHOSEN)),
        ),
        figure(
            "Failed",
            "Which share of them ended without a good answer, whatever was tried?",
            "percentunit",
            Query(ratio(rate(f"{_DURATION}_count", f'{_CHOSEN},error_type!=""'), rate(f"{_DURATION}_count", _CHOSEN))),
            red_from=0.01,
        ),
        figure(
            "Retried",
            "Which share of the attempts were retries? Their budget ends at about a tenth.",
            "percentunit",
            Query(ratio(rate("spillway_retries_total", _CHOSEN), rate("spillway_attempts_total", _CHOSEN))),
            red_from=0.05,
        ),
        figure(
            "Breakers not closed",
            "How many targets does some replica avoid because they fail?",
            "none",
            Query(
                f"count(max by (gen_ai_request_model, spillway_target) (spillway_breaker_state{{{_CHOSEN}}}) > 0)"
                " or vector(0)"
            ),
            red_from=1,
        ),
        figure(
            "Tokens", "How many tokens a second go in and come out?", "none", Query(rate(f"{_TOKENS}_sum", _CHOSEN))
        ),
        figure(
            "Cost",
            "What does this cost, if it goes on for an hour?",
            "currencyUSD",
            Query(f"3600 * {rate('spillway_cost_usd_total', _CHOSEN)}"),
        ),
    ),
)

_SPEED = Row(
    "How fast are the models?",
    (
        graph(
            "Time to the first chunk",
            "How long is a stream silent before it begins, by model? Points lead to traces.",
            "s",
            Query(quantile(0.5, _FIRST_CHUNK, _CHOSEN, by=[_MODEL]), f"{_MODEL_LEGEND} p50", has_exemplars=True),
            Query(quantile(0.95, _FIRST_CHUNK, _CHOSEN, by=[_MODEL]), f"{_MODEL_LEGEND} p95", has_exemplars=True),
        ),
        graph(
            "Duration",
            "How long does a model take for a whole answer, its retries included? Points lead to traces.",
            "s",
            Query(quantile(0.5, _DURATION, _CHOSEN, by=[_MODEL]), f"{_MODEL_LEGEND} p50", has_exemplars=True),
            Query(quantile(0.95, _DURATION, _CHOSEN, by=[_MODEL]), f"{_MODEL_LEGEND} p95", has_exemplars=True),
        ),
        graph(
            "Output tokens per call",
            "Are answers slow because they are long?",
            "none",
            Query(
                f"{rate(f'{_TOKENS}_sum', _OUTPUT, by=[_MODEL])} / {rate(f'{_TOKENS}_count', _OUTPUT, by=[_MODEL])}",
                _MODEL_LEGEND,
            ),
        ),
    ),
)

_USE = Row(
    "What is used, and what does it cost?",
    (
        graph(
            "Calls by model",
            "Which models are asked?",
            "reqps",
            Query(rate(f"{_DURATION}_count", _CHOSEN, by=[_MODEL]), _MODEL_LEGEND),
        ),
        graph(
            "Tokens by model",
            "Where do the tokens go?",
            "none",
            Query(
                rate(f"{_TOKENS}_sum", _CHOSEN, by=[_MODEL, "gen_ai_token_type"]),
                _MODEL_LEGEND + " {{gen_ai_token_type}}",
            ),
            is_stacked=True,
        ),
        graph(
            "Cost by target",
            "Which target is the money spent at, by the hour? Prices are the catalogue's.",
            "currencyUSD",
            Query(f"3600 * {rate('spillway_cost_usd_total', _CHOSEN, by=_TARGET)}", _TARGET_LEGEND),
            is_stacked=True,
        ),
    ),
)

_FAILURES = Row(
    "What fails, and what is done about it?",
    (
        graph(
            "Attempts by outcome",
            "How do the calls of each target end?",
            "reqps",
            Query(rate("spillway_attempts_total", _CHOSEN, by=[*_TARGET, "outcome"]), _TARGET_LEGEND + " {{outcome}}"),
            is_stacked=True,
        ),
        graph(
            "Failed calls by error",
            "Which error do calls end with, once nothing is left to try?",
            "reqps",
            Query(
                rate(f"{_DURATION}_count", f'{_CHOSEN},error_type!=""', by=[_MODEL, "error_type"]),
                _MODEL_LEGEND + " {{error_type}}",
            ),
        ),
        graph(
            "Retries by reason",
            "Why are calls tried again?",
            "reqps",
            Query(rate("spillway_retries_total", _CHOSEN, by=[*_TARGET, "reason"]), _TARGET_LEGEND + " {{reason}}"),
        ),
        graph(
            "Fallbacks",
            "Which model answers in place of which?",
            "reqps",
            Query(
                rate("spillway_fallbacks_total", _CHOSEN, by=[_MODEL, "spillway_fallback_model"]),
                _MODEL_LEGEND + " → {{spillway_fallback_model}}",
            ),
        ),
    ),
)

_TARGETS = Row(
    "Which targets are spared?",
    (
        timeline(
            "Breakers",
            "Which target is avoided by at least one replica, and since when?",
            Query(level("spillway_breaker_state", _CHOSEN, by=_TARGET, function="max"), _TARGET_LEGEND),
            {0: ("closed", "green"), 1: ("half open", "yellow"), 2: ("open", "red")},
        ),
        graph(
            "Breakers opened",
            "How often is a target given up?",
            "cps",
            Query(rate("spillway_breaker_opened_total", _CHOSEN, by=_TARGET), _TARGET_LEGEND),
        ),
        graph(
            "Calls in flight and their limit",
            "Is a target full? The limit adapts to its refusals; at the limit callers get `upstream_saturated`.",
            "none",
            Query(level("spillway_target_in_flight", _CHOSEN, by=_TARGET), f"{_TARGET_LEGEND} in flight"),
            Query(level("spillway_target_limit", _CHOSEN, by=_TARGET), f"{_TARGET_LEGEND} limit"),
        ),
        graph(
            "Not sent",
            "Which calls are kept from upstreams: throttled, full, no retry budget?",
            "reqps",
            Query(rate("spillway_upstream_refusals_total", _CHOSEN, by=["reason"]), "{{reason}}"),
        ),
    ),
)

_CHANGES = Row(
    "What was rolled out?",
    (
        graph(
            "Canary share",
            "Which share of the tenants meets a canary? 0 after a rollback; replicas judge alone.",
            "percentunit",
            Query(level("spillway_canary_weight", _CHOSEN, by=_TARGET, function="min"), f"{_TARGET_LEGEND} least"),
            Query(level("spillway_canary_weight", _CHOSEN, by=_TARGET, function="max"), f"{_TARGET_LEGEND} most"),
        ),
        graph(
            "Canary rollbacks",
            "Which canary was worse than the stable targets?",
            "none",
            Query(level("spillway_canary_rollbacks_total", _CHOSEN, by=_TARGET), _TARGET_LEGEND),
        ),
        graph(
            "Catalogue versions",
            "Was a version of the catalogue taken up, or refused?",
            "none",
            Query(level("spillway_catalogue_reloads_total", by=["outcome"]), "{{outcome}}"),
        ),
        graph(
            "Embeddings joined",
            "How many items go to the upstream in one call?",
            "none",
            Query(f"{rate('spillway_embeddings_joined_sum')} / {rate('spillway_embeddings_joined_count')}", "mean"),
        ),
    ),
)

MODELS_AND_TARGETS = Dashboard(
    "spillway-models",
    "Spillway: Models and targets",
    "Which model or upstream is slow, failing, expensive or spared?",
    (_FIGURES, _SPEED, _USE, _FAILURES, _TARGETS, _CHANGES),
    (Variable("model", _MODEL, "spillway_attempts_total"),),
)

"""Every name in our traces, and the GenAI names in our metrics: one table, so that a renaming is a change of one file.

Sources: OpenTelemetry semantic conventions, HTTP and database spans (stable);
https://github.com/open-telemetry/semantic-conventions-genai (in development); what is ours begins with `spillway.`.
A value is bounded and a word of ours, or an id: never what a caller sent, but for captured content.
"""

from __future__ import annotations

# -- names of spans ----------------------------------------------------------------------------------------------------
# A hop's server span is `{method} {route}`, or `{method}` when no route matched; its call of the next hop `{method}`.

OPERATION = "{operation} {model}"
"""`chat gpt-5`: the whole work on one question at inference, its attempts inside."""
ATTEMPT = "attempt"
STORE_OPERATION = "{operation} {store}"
"""`admit limits`: one logical operation on a store, whatever the number of its commands."""
ADMISSION_WAIT = "admission wait"
"""From a call's arrival in the queue in front of inference until it leaves it."""
JOB_WAIT = "job wait"
JOB_ATTEMPT = "job attempt"

# -- attributes: OpenTelemetry's own -----------------------------------------------------------------------------------

ERROR_TYPE = "error.type"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"
HTTP_STATUS = "http.response.status_code"
HTTP_METHOD = "http.request.method"
HTTP_ROUTE = "http.route"
URL_SCHEME = "url.scheme"
URL_PATH = "url.path"
URL_QUERY = "url.query"
USER_AGENT = "user_agent.original"
URL_FULL = "url.full"
PROTOCOL_VERSION = "network.protocol.version"
DB_SYSTEM = "db.system.name"
DB_OPERATION = "db.operation.name"

# -- attributes: GenAI -------------------------------------------------------------------------------------------------

GEN_AI_OPERATION = "gen_ai.operation.name"
GEN_AI_PROVIDER = "gen_ai.provider.name"
GEN_AI_REQUEST_MODEL = "gen_ai.request.model"
GEN_AI_REQUEST_STREAM = "gen_ai.request.stream"
GEN_AI_REQUEST_MAX_TOKENS = "gen_ai.request.max_tokens"
GEN_AI_REQUEST_TEMPERATURE = "gen_ai.request.temperature"
GEN_AI_RESPONSE_ID = "gen_ai.response.id"
GEN_AI_RESPONSE_MODEL = "gen_ai.response.model"
GEN_AI_FINISH_REASONS = "gen_ai.response.finish_reasons"
GEN_AI_TIME_TO_FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
GEN_AI_INPUT_TOKENS = "gen_ai.usage.input_tokens"
GEN_AI_OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
GEN_AI_USAGE = "gen_ai.usage."
"""And `cache_read.input_tokens` or `reasoning.output_tokens`."""
GEN_AI_TOKEN_TYPE = "gen_ai.token.type"
GEN_AI_INPUT_MESSAGES = "gen_ai.input.messages"
GEN_AI_OUTPUT_MESSAGES = "gen_ai.output.messages"
"""These two hold content: only with the deployment's and the key's consent."""

# -- attributes: ours --------------------------------------------------------------------------------------------------

TENANT = "spillway.tenant"
KEY_ID = "spillway.key.id"
REQUEST_ID = "spillway.request.id"
ERROR_CODE = "spillway.error.code"
"""Of the error that a caller was answered; `error.type` is the status then, as OpenTelemetry has it."""
DECISION = "spillway.decision."
"""And the key of what was decided: `spillway.decision.cache`."""
CACHE_OUTCOME = "spillway.cache.outcome"
LOOKUP_OUTCOME = "spillway.cache.lookup"
"""`hit`, `lead`, `follow` or `none`: what the cache service said, of which the outcome follows."""
LINK = "spillway.link"
"""On a link: `caller` (the caller's own trace), `leader` (whose call it was that answered), `submission` (a job's)."""
STORE = "spillway.store"
"""`state`, `limits` or `cache`."""
ATTEMPTS = "spillway.attempts"
ATTEMPT_NUMBER = "spillway.attempt.number"
ATTEMPT_REASON = "spillway.attempt.reason"
"""`first`, `larger` (the prompt was too long for the model), or what the attempt before failed of."""
ATTEMPT_OUTCOME = "spillway.attempt.outcome"
"""`ok`, `cancelled`, or what it failed of."""
FALLBACK_MODEL = "spillway.fallback.model"
"""The public name of the model that is asked, where that is another than was asked for."""
TARGET = "spillway.target"
BATCH_REQUESTS = "spillway.batch.requests"
USAGE_IS_ESTIMATED = "spillway.usage.is_estimated"
COST_USD = "spillway.cost_usd"
CONTENT_IS_CUT = "spillway.content.is_cut"
JOB_ID = "spillway.job.id"
JOB_ATTEMPT_NUMBER = "spillway.job.attempt"
JOB_OUTCOME = "spillway.job.outcome"
CANARY = "spillway.canary."
"""As above."""

# -- values ------------------------------------------------------------------------------------------------------------

CANCELLED = "cancelled"
"""An `error.type` without an error's status: whoever asked does not wait any more."""

# -- events ------------------------------------------------------------------------------------------------------------

RETRY = "retry"
RETRY_BUDGET_EXHAUSTED = "retry_budget_exhausted"
FALLBACK = "fallback"
FIRST_TOKEN = "first_token"
CANARY_ROLLED_BACK = "canary_rolled_back"

# -- GenAI metrics -----------------------------------------------------------------------------------------------------

GEN_AI_DURATION = "gen_ai.client.operation.duration"
GEN_AI_TIME_TO_FIRST_CHUNK_METRIC = "gen_ai.client.operation.time_to_first_chunk"
GEN_AI_TOKEN_USAGE = "gen_ai.client.token.usage"

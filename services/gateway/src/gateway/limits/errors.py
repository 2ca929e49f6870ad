"""What the limits refuse beside "come back later" (`verdict.refusal`)."""

from __future__ import annotations

from common.errors import InvalidRequest, PermissionDenied, Unavailable


class LimitsStoreAwayError(Exception):
    """The *limits* store did not answer in its time, or cannot write; `reason` is for the log."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class TooLargeForLimit(InvalidRequest):
    """No waiting helps: the request is larger than the whole limit."""

    code = "request_too_large_for_limit"


class PriceUnknown(PermissionDenied):
    """The key has a budget and nobody knows what this model costs: what cannot be counted is not spent."""

    code = "model_price_unknown"


class PricesUnavailable(Unavailable):
    """As above, but only until the catalogue of models has been read for the first time."""

    code = "model_prices_unavailable"


class UsageUnavailable(Unavailable):
    code = "usage_unavailable"

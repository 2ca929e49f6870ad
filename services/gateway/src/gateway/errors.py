"""The gateway's own errors; what callers see is in `common.errors`."""

from __future__ import annotations


class StoreUnavailableError(Exception):
    """A store did not answer in its time, or with nonsense. Whoever asked knows what that means for the caller."""

"""The receiving side of an internal call: whom it is for, and how long it may take."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from common import wire
from common.deadline import Deadline
from common.errors import InvalidRequest

if TYPE_CHECKING:
    from starlette.datastructures import Headers

DEFAULT_TIMEOUT_S = 120.0


def deadline_of(headers: Headers) -> Deadline:
    """The deadline that the previous hop forwarded; 120 s when it named none."""
    given = headers.get(wire.TIMEOUT_MS)
    if given is None:
        return Deadline.after(DEFAULT_TIMEOUT_S)
    try:
        milliseconds = float(given)
    except ValueError:
        milliseconds = math.nan
    if not milliseconds > 0:
        raise InvalidRequest(f"The header {wire.TIMEOUT_MS} has to be a positive number.", param=wire.TIMEOUT_MS)
    return Deadline.after(milliseconds / 1000)

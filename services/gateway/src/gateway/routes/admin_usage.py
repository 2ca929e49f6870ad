"""`GET /admin/usage`: what was used, by day, tenant, key and model. Opened by the admin key alone."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import JSONResponse

from common.errors import InvalidRequest
from gateway import admin_answers as answers
from gateway.dependencies import administrator, state_of
from gateway.limits.errors import LimitsStoreAwayError, UsageUnavailable
from gateway.limits.ledger import MEASURES, UsageRow
from gateway.routes.describe import ERRORS

router = APIRouter(prefix="/admin", tags=["admin"], dependencies=[Depends(administrator)], responses=ERRORS)
MOST_DAYS = 92
Day = Annotated[dt.date | None, Query(description="A UTC day, YYYY-MM-DD.")]
Name = Annotated[str | None, Query(min_length=1, max_length=256)]
_From = Annotated[dt.date | None, Query(alias="from", description="The first UTC day, YYYY-MM-DD; default: today.")]


@router.get(
    "/usage", summary="What was used, by UTC day, tenant, key and model", responses={200: {"model": answers.UsagePage}}
)
async def show_usage(  # noqa: PLR0913  # one for each thing that can be asked for
    request: Request, *, from_: _From = None, to: Day = None, tenant: Name = None, key: Name = None, model: Name = None
) -> JSONResponse:
    days = _days(from_, to)
    try:
        rows = await state_of(request)["ledger"].rows([day.strftime("%Y%m%d") for day in days], tenant=tenant)
    except LimitsStoreAwayError as error:
        raise UsageUnavailable("Usage cannot be read right now.") from error
    wanted = [row for row in rows if key in (None, row.key) and model in (None, row.model)]
    return JSONResponse({"from": str(days[0]), "to": str(days[-1]), "data": [_shown(row) for row in wanted]})


def _days(first: dt.date | None, last: dt.date | None) -> list[dt.date]:
    last = last or max(first or dt.date.min, dt.datetime.now(dt.UTC).date())
    first = first or last
    count = (last - first).days + 1
    if not 1 <= count <= MOST_DAYS:
        raise InvalidRequest(f"'from' to 'to' has to be 1 to {MOST_DAYS} days.", param="from")
    return [first + dt.timedelta(days=ahead) for ahead in range(count)]


def _shown(row: UsageRow) -> dict[str, str | int | float]:
    shown: dict[str, str | int | float] = {
        "day": f"{row.day[:4]}-{row.day[4:6]}-{row.day[6:]}",
        "tenant": row.tenant,
        "key": row.key,
        "model": row.model,
    }
    shown |= {measure: row.measures.get(measure, 0) for measure in MEASURES}
    return shown | {"cost_usd": row.measures.get("cost_micro_usd", 0) / 1_000_000}

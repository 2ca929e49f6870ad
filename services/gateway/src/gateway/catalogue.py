"""The gateway's copy of inference's catalogue: prices and sizes of models. Good until there is a newer one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any

import httpx2
import orjson

from common.background import end
from common.identity import HopIdentity

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from common.identity import HopSigner
    from common.wire import Catalogue, CatalogueModel, Price

logger = logging.getLogger(__name__)

REFRESH_EVERY_S = 5.0
FIRST_TRIES_S = 0.5
TIMEOUT_S = 2.0
UNKNOWN_MODEL = "-"
_UNTRACED = {"traceparent": f"00-{1:032x}-{1:016x}-00"}
"""Not sampled: nobody's request asks for it, and inference would begin a trace each time."""
_PATH = "/v1/catalogue"
_PLATFORM = HopIdentity("-", "-")
"""No tenant asks: the platform itself does."""
_OK = 200
_NOT_MODIFIED = 304


WORTH_A_LINE = 10
"""Failures in a row."""


class ModelCatalogue:
    """Empty until inference has answered once; afterwards what it said last, for as long as it says nothing else."""

    def __init__(self, client: httpx2.AsyncClient | None = None, signer: HopSigner | None = None) -> None:
        self._client = client
        self._signer = signer
        self._catalogue: Catalogue | None = None
        self._etag: str | None = None
        self._failures = 0

    @property
    def is_known(self) -> bool:
        return self._catalogue is not None

    @property
    def revision(self) -> str:
        """Changes when the catalogue does; empty as long as nothing is known of it."""
        return "" if self._catalogue is None else self._catalogue["revision"]

    def has(self, model: str) -> bool:
        return self._model(model) is not None

    def lacks(self, model: str) -> bool:
        """Whether there is certainly no such model. An inference without a catalogue of its own publishes an empty one,
        and passes any name on.
        """
        return self._catalogue is not None and bool(self._catalogue["models"]) and not self.has(model)

    def price(self, model: str) -> Price | None:
        """None: nobody knows."""
        found = self._model(model)
        return None if found is None else found["price"]

    def max_output_tokens(self, model: str) -> int | None:
        found = self._model(model)
        return None if found is None else found["max_output_tokens"]

    def shown_name(self, model: str) -> str:
        """The name, if it is one of the platform's; a client's own words are not kept."""
        return model if self.has(model) else UNKNOWN_MODEL

    def _model(self, model: str) -> CatalogueModel | None:
        return None if self._catalogue is None else self._catalogue["models"].get(model)

    @contextlib.asynccontextmanager
    async def kept_fresh(self) -> AsyncIterator[None]:
        """Ask at once and then every few seconds, within the body. Inference may be down: nothing waits for it."""
        task = asyncio.create_task(self._refresh_all())
        try:
            yield
        finally:
            await end(task)

    async def _refresh_all(self) -> None:
        while True:
            await self.refresh()
            await asyncio.sleep(REFRESH_EVERY_S if self.is_known else FIRST_TRIES_S)

    async def refresh(self) -> None:
        """Ask inference once. Any fault keeps what is known."""
        if self._client is None or self._signer is None:
            return
        headers = {"authorization": self._signer.authorization(_PLATFORM), **_UNTRACED}
        if self._etag is not None:
            headers["if-none-match"] = self._etag
        try:
            async with asyncio.timeout(TIMEOUT_S):
                response = await self._client.get(_PATH, headers=headers)
            self._take(response)
        except (httpx2.HTTPError, TimeoutError, ValueError) as error:
            self._failures += 1
            if self._failures == WORTH_A_LINE:  # services start side by side: one or two failures are none
                logger.warning("catalogue_unavailable", extra={"reason": type(error).__name__})
        else:
            self._failures = 0

    def _take(self, response: httpx2.Response) -> None:
        if response.status_code == _NOT_MODIFIED:
            return
        if response.status_code != _OK:
            raise ValueError(f"status {response.status_code}")
        self._catalogue = _read(response.content)
        self._etag = response.headers.get("etag")


def _read(body: bytes) -> Catalogue:
    """Raises `ValueError` for what is no catalogue; fields that are not ours are left out."""
    try:
        document = orjson.loads(body)
        models = {str(name): _model_of(fields) for name, fields in document["models"].items()}
        return {"revision": str(document["revision"]), "models": models}
    except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError) as error:
        raise ValueError("not a catalogue") from error


def _model_of(fields: dict[str, Any]) -> CatalogueModel:
    price, longest = fields["price"], fields["max_output_tokens"]
    return {
        "price": None if price is None else {name: _amount(price[name]) for name in ("input_usd", "output_usd")},  # type: ignore[typeddict-item]  # these are its keys
        "max_output_tokens": None if longest is None else int(longest),
    }


def _amount(value: object) -> float:
    amount = float(value)  # type: ignore[arg-type]  # what is no number raises, as it should
    if not 0 <= amount < float("inf"):
        raise ValueError("not a price")
    return amount

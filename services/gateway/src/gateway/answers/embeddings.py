"""Embeddings are kept by input item: a batch is answered from several entries, and only the rest goes upstream.

`usage` of a batch that was put together is the sum of what its items cost when they were computed. An upstream counts a
batch as a whole, so its tokens are divided among the items by their length; the parts add up to what it said.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import orjson

from common import wire
from common.errors import UpstreamFailed
from gateway.answers.chat_work import fetch
from gateway.coalescing.flight import Failure, Flight
from gateway.strict_json import render

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.caching.entry_writer import EntryWriter
    from gateway.caching.hot_entries import Hit
    from gateway.call import Call
    from gateway.inference_client import InferenceClient

ITEM = b"e"
"""The first byte of such an entry, as `w` and `s` are of chat's."""
Item = str | list[int]


def items_of(asked: Any) -> list[Item]:
    """The single inputs of a request: a text, tokens, texts, or lists of tokens."""
    is_one = isinstance(asked, str) or (isinstance(asked, list) and bool(asked) and isinstance(asked[0], int))
    return [asked] if is_one else list(asked)


def body_of(kept: Sequence[bytes]) -> bytes:
    """The answer that these entries make together, in their order."""
    return orjson.dumps(_joined([orjson.loads(value[1:]) for value in kept]))


def kept_item(entry: dict[str, Any]) -> bytes:
    return ITEM + orjson.dumps(entry)


def _joined(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    data = [{**entry["item"], "index": index} for index, entry in enumerate(entries)]
    tokens = [entry["tokens"] for entry in entries]
    usage = None if None in tokens else {"prompt_tokens": sum(tokens), "total_tokens": sum(tokens)}
    return {**entries[-1]["answer"], "data": data} | ({"usage": usage} if usage else {})


@dataclass(slots=True)
class EmbeddingsWork:
    """Fetches the items that were not found, and puts the answer together."""

    name: str
    """Of the whole batch; of a single item it is that of its entry, which then answers and ends the lease."""
    inference: InferenceClient
    writer: EntryWriter
    items: Sequence[Item]
    names: Sequence[str]
    """The fingerprint of each item's entry."""
    found: Sequence[Hit | None]
    fresh: dict[int, dict[str, Any]] = field(default_factory=dict)
    """The new entries, by their place in the batch."""

    async def fetch(self, flight: Flight, call: Call) -> Failure | None:
        places = [place for place, hit in enumerate(self.found) if hit is None]
        is_all = len(places) == len(self.items)
        part = Flight(flight.max_bytes)
        asked = call
        if not is_all:
            body = {**call.body, "input": [self.items[place] for place in places]}
            asked = replace(call, body=body, payload=render(body))
        failure = await fetch(self.inference, part, asked)
        if failure is not None or part.head is None:
            return failure
        content = part.content()
        self.fresh = dict(zip(places, entries_of(content, [self.items[place] for place in places]), strict=False))
        flight.take_off(part.head)
        if not is_all:
            content = self._put_together(len(places))
        flight.add(content)
        flight.land()
        return None

    def is_worth_keeping(self, flight: Flight) -> bool:  # noqa: ARG002  # the protocol's
        return bool(self.fresh)

    def keep(self, flight: Flight, call: Call, lease: str) -> bool:
        """Ends the lease with a single item's entry only: a batch has none of its own."""
        if flight.head is not None and flight.head.headers.get(wire.MODEL, call.model) != call.model:
            return False
        values = [(self.names[place], kept_item(entry)) for place, entry in self.fresh.items()]
        if values[0][0] == self.name:
            return self.writer.put(self.name, values[0][1], identity=call.identity, flight=lease)
        self.writer.put_many(values, identity=call.identity)
        return False

    def _put_together(self, expected: int) -> bytes:
        if len(self.fresh) != expected:
            raise UpstreamFailed("The upstream's answer was not a list of embeddings.", headers=wire.FINAL)
        entries = [
            self.fresh[place] if hit is None else orjson.loads(hit.value[1:]) for place, hit in enumerate(self.found)
        ]
        return orjson.dumps(_joined(entries))


def entries_of(body: bytes, items: Sequence[Item]) -> list[dict[str, Any]]:
    """What is kept of each item of an answer: `item`, the rest of the `answer`, its `tokens`. Empty: no such answer."""
    try:
        answer = orjson.loads(body)
        data = sorted(answer["data"], key=lambda item: item["index"])
        if [item["index"] for item in data] != list(range(len(items))) or not all(item["embedding"] for item in data):
            return []
        rest = {key: value for key, value in answer.items() if key not in ("data", "usage")}
        tokens = _shares((answer.get("usage") or {}).get("prompt_tokens"), items)
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return []
    return [
        {"item": {key: value for key, value in item.items() if key != "index"}, "answer": rest, "tokens": share}
        for item, share in zip(data, tokens, strict=True)
    ]


def _shares(total: object, items: Sequence[Item]) -> list[int | None]:
    """Whole tokens for each item, by its length, that add up to `total`; the largest remainders get what is left."""
    if not isinstance(total, int):
        return [None] * len(items)
    sizes = [max(len(item), 1) for item in items]
    exact = [total * size / sum(sizes) for size in sizes]
    shares: list[int | None] = [int(share) for share in exact]
    left = total - sum(int(share) for share in exact)
    for place in sorted(range(len(items)), key=lambda place: int(exact[place]) - exact[place])[:left]:
        shares[place] = int(exact[place]) + 1
    return shares

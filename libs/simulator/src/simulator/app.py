"""The application: routes, admission, and the one place where errors become answers. Plain ASGI."""

from __future__ import annotations

import hmac
import logging
import time
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl

import orjson

from simulator import chat, delivery, directive, embeddings
from simulator.answers import FINGERPRINT, Answer, choices
from simulator.attempts import AttemptLog, body_hash
from simulator.errors import ApiError, InvalidApiKey, InvalidRequest, ModelNotFound
from simulator.exchange import ConnectionGone, Exchange
from simulator.settings import load

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from simulator.exchange import Receive, Scope, Send
    from simulator.settings import SimulatorSettings

    Handler = Callable[[Exchange], Awaitable[None]]

logger = logging.getLogger(__name__)
_MOST_DIGITS = 18
_MODELS_CREATED = 1_767_225_600  # 2026-01-01; a constant, as for any model


class Admitted(NamedTuple):
    """A request that may be served."""

    body: dict[str, Any]
    number: int
    """Of the attempt, for this prompt: from 1."""
    seed: str
    """A hash of all that may change the answer."""


def create_app(settings: SimulatorSettings | None = None) -> Simulator:
    """The simulator as an ASGI application; settings come from the environment unless given."""
    return Simulator(load() if settings is None else settings)


class Simulator:
    """An OpenAI-compatible upstream, and the log of what it was asked at `/_sim/requests`."""

    def __init__(self, settings: SimulatorSettings) -> None:
        self._settings = settings
        self._defaults = settings.behaviour()
        self._log = AttemptLog(settings.max_attempts_logged)
        self._authorization = (
            None if settings.api_key is None else b"Bearer " + settings.api_key.get_secret_value().encode()
        )
        self._models = {
            name: {"id": name, "object": "model", "created": _MODELS_CREATED, "owned_by": FINGERPRINT}
            for name in settings.models
        }
        self._routes: dict[str, dict[str, Handler]] = {
            "/health": {"GET": self._health},
            "/v1/chat/completions": {"POST": self._chat},
            "/v1/embeddings": {"POST": self._embed},
            "/v1/models": {"GET": self._list_models},
            "/_sim/requests": {"GET": self._list_attempts, "DELETE": self._clear_attempts},
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError(scope["type"])
        exchange = Exchange(scope, receive, send)
        try:
            await self._serve(exchange)
        except ConnectionGone:
            if exchange.attempt is not None and exchange.attempt.finished is None:
                exchange.attempt.cancelled = time.monotonic()
        except Exception:
            # The outermost edge: a defect of the simulator must not look like one of its faults.
            logger.exception("unexpected_error")
            if exchange.started:
                raise
            defect = ApiError("The simulator has a defect; its log says more.", status=500, code="simulator_defect")
            await exchange.answer(defect.status, defect.body())
        finally:
            exchange.release()

    async def _serve(self, exchange: Exchange) -> None:
        try:
            await self._handler(exchange.scope)(exchange)
        except ApiError as error:
            await exchange.answer(error.status, error.body(), error.headers)

    def _handler(self, scope: Scope) -> Handler:
        path, method = scope["path"], scope["method"]
        methods = self._routes.get(path)
        if methods is None and path.startswith("/v1/models/"):
            methods = {"GET": self._get_model}
        if methods is None:
            raise ApiError(f"Unknown route: {method} {path}", status=404, code="unknown_route")
        if method not in methods:
            allow = [(b"allow", ", ".join(methods).encode())]
            raise ApiError(f"{path} does not take {method}.", status=405, code="method_not_allowed", headers=allow)
        return methods[method]

    # -- models --------------------------------------------------------------------------------------------------

    async def _chat(self, exchange: Exchange) -> None:
        body, number, seed = await self._admit(exchange)
        request = chat.read(body)
        behaviour = directive.read(request.last_user_text, self._defaults)
        fault = await delivery.begin(exchange, behaviour, number)
        answer = Answer(
            # The attempt is part of the id, so that an answer out of a cache can be told from a second one.
            identity=f"chatcmpl-sim-{seed}-{number}",
            created=int(time.time()),
            model=body["model"],
            prompt_tokens=request.prompt_tokens,
            choices=choices(request, seed, behaviour.tokens),
            tool=request.tool_call.name if request.tool_call else None,
        )
        if request.stream:
            events = answer.events(include_usage=request.include_usage and behaviour.usage)
            await delivery.stream(exchange, events, behaviour, fault)
        else:
            await exchange.pause((answer.completion_tokens - 1) * behaviour.itl_ms / 1000)
            await delivery.whole(exchange, answer.body(has_usage=behaviour.usage), behaviour, fault)

    async def _embed(self, exchange: Exchange) -> None:
        body, number, _ = await self._admit(exchange)
        request = embeddings.read(body, self._settings.dimensions)
        behaviour = directive.read(request.script, self._defaults)
        fault = await delivery.begin(exchange, behaviour, number)
        await delivery.whole(
            exchange, embeddings.body(request, body["model"], has_usage=behaviour.usage), behaviour, fault
        )

    async def _list_models(self, exchange: Exchange) -> None:
        self._check_key(exchange)
        await exchange.answer(200, orjson.dumps({"object": "list", "data": list(self._models.values())}))

    async def _get_model(self, exchange: Exchange) -> None:
        self._check_key(exchange)
        name = exchange.scope["path"].removeprefix("/v1/models/")
        if name not in self._models:
            raise ModelNotFound(name)
        await exchange.answer(200, orjson.dumps(self._models[name]))

    async def _admit(self, exchange: Exchange) -> Admitted:
        """Log the attempt, check its key and read its body, which has to ask for a model that is served."""
        attempt = exchange.attempt = self._log.open(exchange.scope["path"], exchange.scope["headers"])
        self._check_key(exchange)
        try:
            body = orjson.loads(await exchange.body(self._settings.max_body_bytes))
        except orjson.JSONDecodeError as error:
            raise InvalidRequest(f"The request body is no JSON: {error}", code="invalid_json") from None
        if not isinstance(body, dict):
            raise InvalidRequest("The request body must be a JSON object.", code="invalid_json")
        try:
            number = self._log.identify(attempt, body)
            seed = body_hash(body)
        except orjson.JSONEncodeError:
            raise InvalidRequest("The request body is nested too deeply.", code="invalid_json") from None
        model = body.get("model")
        if not isinstance(model, str):
            raise InvalidRequest("'model' must be a string.", "model")
        if model not in self._models:
            raise ModelNotFound(model)
        return Admitted(body, number, seed)

    def _check_key(self, exchange: Exchange) -> None:
        if self._authorization is None:
            return
        if not hmac.compare_digest(exchange.header(b"authorization") or b"", self._authorization):
            raise InvalidApiKey

    # -- the simulator itself ------------------------------------------------------------------------------------

    async def _health(self, exchange: Exchange) -> None:
        await exchange.answer(200, b'{"status":"ok"}')

    async def _list_attempts(self, exchange: Exchange) -> None:
        query = dict(parse_qsl(exchange.scope["query_string"].decode("latin-1")))
        after = query.get("after", "0")
        if not after.isdecimal() or len(after) > _MOST_DIGITS:
            raise InvalidRequest("'after' must be the seq of an attempt.", "after")
        selected = self._log.select(after=int(after), model=query.get("model"), request_id=query.get("request_id"))
        await exchange.answer(200, orjson.dumps({"requests": [attempt.as_dict() for attempt in selected]}))

    async def _clear_attempts(self, exchange: Exchange) -> None:
        self._log.clear()
        await exchange.answer(200, b"{}")

"""The models of one version of the catalogue, with their living targets. What a reload leaves as it is lives on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common import wire
from common.errors import NotFound
from inference.canary import Canary
from inference.catalogue import NAME, Catalogue, TargetSpec
from inference.targets import Policy, Target
from inference.upstream import Upstream

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import httpx2

    from inference.catalogue import ModelSpec
    from inference.named_secrets import NamedSecrets

NO_KEY = "none"
_NAME = re.compile(NAME)
OPEN_REVISION = "any-model"
OTHER = "other"


class ModelNotFound(NotFound):
    """The same for a model that does not exist and for one that nobody would call a model."""

    code = "model_not_found"

    def __init__(self) -> None:
        super().__init__("The model does not exist, or you may not use it.", param="model", headers=wire.FINAL)


@dataclass(frozen=True, slots=True)
class ServedModel:
    name: str
    stable: tuple[Target, ...]
    on_trial: Target | None = None
    canary: Canary | None = None
    fallback: tuple[str, ...] = ()
    larger: str | None = None
    spec: ModelSpec | None = None

    def targets_for(self, tenant: str) -> tuple[Target, ...]:
        """What this tenant's request may go to first: the canary alone, or all that are stable."""
        if self.on_trial is None or self.canary is None:
            return self.stable
        if self.on_trial.breaker.is_open and not any(target.breaker.is_open for target in self.stable):
            self.canary.ejected()
        return (self.on_trial,) if self.canary.serves(tenant) else self.stable

    def targets(self) -> tuple[Target, ...]:
        return (*self.stable, self.on_trial) if self.on_trial else self.stable


class ServedModels:
    """One version. Frozen but for what its targets learn."""

    def __init__(self, catalogue: Catalogue | None, models: Mapping[str, ServedModel], anything: Target | None) -> None:
        self.catalogue = catalogue
        """None: any name goes to the one upstream that the environment names."""
        self.models = models
        self._anything = anything

    def find(self, name: str) -> ServedModel:
        """Raises `ModelNotFound`."""
        if self._anything is not None and (not name or _NAME.fullmatch(name)):  # no name: the list of models
            return ServedModel(name, (self._anything,))
        try:
            return self.models[name]
        except KeyError:
            raise ModelNotFound from None

    def named(self, name: str) -> str:
        """`name` if it may stand in a span: it is served; else `other`, because a caller may call a model anything."""
        if self._anything is not None:
            return name if _NAME.fullmatch(name) else OTHER
        return name if name in self.models else OTHER

    def label(self, name: str) -> str:
        """`name` if it may stand in a metric: the catalogue has it; else `other`, so that there are no more labels."""
        return name if name in self.models else OTHER

    def targets(self) -> Iterable[Target]:
        for _, target in self.labelled_targets():
            yield target

    def labelled_targets(self) -> Iterable[tuple[str, Target]]:
        """Each with the label of its model."""
        if self._anything is not None:
            yield OTHER, self._anything
        for model in self.models.values():
            for target in model.targets():
                yield model.name, target

    def published(self) -> wire.Catalogue:
        if self.catalogue is None:
            return wire.Catalogue(revision=OPEN_REVISION, models={})
        return self.catalogue.published()


class Workshop:
    """Makes served models out of catalogues: one `Upstream` per target, all over one client."""

    def __init__(self, client: httpx2.AsyncClient, policy: Policy) -> None:
        self._client = client
        self._policy = policy

    def open_door(self, spec: TargetSpec, api_key: str) -> ServedModels:
        """Serve any model name from one target; prices are unknown."""
        return ServedModels(None, {}, self._target(spec, api_key))

    def serve(self, catalogue: Catalogue, secrets: NamedSecrets, before: ServedModels | None = None) -> ServedModels:
        """A target whose entry and key are what they were in `before` keeps its state, and so does a canary."""
        old = {target.name: target for target in before.targets()} if before is not None else {}
        models = {}
        for name, spec in catalogue.models.items():
            targets = {one.name: self._kept(one, secrets, old.get(one.name)) for one in spec.targets}
            was = before.models.get(name) if before is not None else None
            models[name] = self._model(name, spec, targets, was)
        return ServedModels(catalogue, models, None)

    def _model(self, name: str, spec: ModelSpec, targets: dict[str, Target], was: ServedModel | None) -> ServedModel:
        on_trial = targets.pop(spec.canary.target) if spec.canary is not None else None
        canary = None
        if spec.canary is not None:
            is_same = was is not None and was.spec == spec and was.canary is not None
            canary = was.canary if is_same and was else Canary(name, spec.canary, clock=self._policy.clock)
        return ServedModel(name, tuple(targets.values()), on_trial, canary, spec.fallback, spec.larger, spec)

    def _kept(self, spec: TargetSpec, secrets: NamedSecrets, old: Target | None) -> Target:
        api_key = (spec.api_key and secrets.value(spec.api_key)) or NO_KEY
        if old is not None and old.spec == spec and old.upstream.has_key(api_key):
            return old
        return self._target(spec, api_key)

    def _target(self, spec: TargetSpec, api_key: str) -> Target:
        return Target(spec, Upstream.of(spec, api_key, self._client), self._policy)

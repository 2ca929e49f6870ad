"""The order in which docs/deploy.md changes a hop secret refuses no call, whichever pods have the new one yet."""

from __future__ import annotations

import itertools

import pytest

from common.errors import Unauthenticated
from common.identity import HopIdentity, HopSigner, HopVerifier
from support.kubernetes import environment, workloads
from support.kustomization import K8S, read

OLD, NEW = "the-old-secret-of-the-tests-0123456789", "the-new-secret-of-the-tests-0123456789"
STATES = ({"current": OLD}, {"current": OLD, "previous": NEW}, {"current": NEW, "previous": OLD}, {"current": NEW})
"""Of the Secret, one after the other; during a step each pod has the one before it or the one after it."""
HOPS = {
    "cache": ("gateway", "GATEWAY_CACHE_HOP_SECRET", "cache", "CACHE_HOP_SECRET"),
    "inference": ("gateway", "GATEWAY_INFERENCE_HOP_SECRET", "inference", "INFERENCE_HOP_SECRET"),
    "jobs": ("gateway", "GATEWAY_JOBS_HOP_SECRET", "jobs", "JOBS_HOP_SECRET"),
    "gateway": ("worker", "WORKER_GATEWAY_HOP_SECRET", "gateway", "GATEWAY_HOP_SECRET"),
}


def call(
    audience: str, secrets: dict[str, dict[str, str]], theirs: dict[str, str], ours: dict[str, str]
) -> HopIdentity:
    """A call whose sender was started with one state of the secret, and whose receiver with another."""
    parts = read(K8S / "overlays" / "production").objects
    sender, signs_with, receiver, checks_with = HOPS[audience]
    name = f"hop-{audience}"
    (sending,), (receiving,) = workloads(parts, sender), workloads(parts, receiver)
    signer = HopSigner(environment(sending, secrets | {name: theirs})[signs_with], audience)
    seen = environment(receiving, secrets | {name: ours})
    known = [seen[variable] for variable in (checks_with, f"{checks_with}_PREVIOUS") if variable in seen]
    return HopVerifier(known, audience).verify(signer.authorization(HopIdentity("acme", "k1")))


@pytest.mark.parametrize("audience", HOPS)
def test_a_hop_secret_is_changed_without_a_refused_call(audience: str, secrets: dict[str, dict[str, str]]) -> None:
    for step in itertools.pairwise(STATES):
        for theirs, ours in itertools.product(step, step):
            assert call(audience, secrets, theirs, ours).tenant == "acme"


def test_exchanged_at_once_it_would_refuse_calls(secrets: dict[str, dict[str, str]]) -> None:
    with pytest.raises(Unauthenticated):
        call("cache", secrets, STATES[-1], STATES[0])

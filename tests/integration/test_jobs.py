"""Jobs through the gateway, over the whole platform: accepted, run, polled, followed, cancelled."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from common.identity import HopIdentity, HopSigner
from simulator.attempts import prompt_hash
from support.bad_input import BAD_PARAMETERS
from support.bad_input import CHAT as GOOD_CHAT
from support.platform import ADMIN_KEY, SECRETS, Platform, chat, eventually, make_key, platform, worker
from support.valkey import Valkey, valkey

if TYPE_CHECKING:
    from pathlib import Path

    import httpx2

UNKNOWN = "job_" + "0" * 32


def submission(prompt: str, **fields: Any) -> dict[str, Any]:
    return {"endpoint": "/v1/chat/completions", "body": chat(prompt), **fields}


def submitted(http: httpx2.Client, asked: dict[str, Any], **headers: str) -> str:
    answer = http.post("/v1/jobs", json=asked, headers=headers)
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"/v1/jobs/{answer.json()['id']}"
    assert int(answer.headers["retry-after"]) >= 1
    job_id: str = answer.json()["id"]
    return job_id


def ended(http: httpx2.Client, job_id: str) -> dict[str, Any]:
    """The job once it is final."""

    def look() -> dict[str, Any] | None:
        answer = http.get(f"/v1/jobs/{job_id}", params={"wait": 5})
        assert answer.status_code == 200, answer.text
        return answer.json() if answer.json()["finished_at"] else None

    return eventually(look)


def in_state(http: httpx2.Client, job_id: str, state: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        job: dict[str, Any] = http.get(f"/v1/jobs/{job_id}").json()
        return job if job["state"] == state else None

    return eventually(look)


def events_of(http: httpx2.Client, job_id: str, **headers: str) -> list[tuple[str, str, str]]:
    """Id, type and data of each event, until the job is final."""
    answer = http.get(f"/v1/jobs/{job_id}/events", headers=headers)
    assert answer.status_code == 200, answer.text
    found = []
    for event in answer.text.split("\n\n"):
        fields = dict(line.partition(": ")[::2] for line in event.splitlines() if not line.startswith(":"))
        if fields:
            found.append((fields["id"], fields.get("event", "message"), fields["data"]))
    return found


def test_a_job_ends_with_what_the_route_would_have_answered(http: httpx2.Client, prompt: str) -> None:
    job = ended(http, submitted(http, submission(prompt, metadata={"order": "7"})))
    assert (job["state"], job["attempts"], job["error"]) == ("succeeded", 1, None)
    assert job["metadata"] == {"order": "7"}
    assert job["created_at"] <= job["started_at"] <= job["finished_at"] < job["expires_at"]
    whole = http.post("/v1/chat/completions", json=chat(prompt), headers={"cache-control": "no-store"}).json()
    assert job["result"]["choices"] == whole["choices"]


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("/v1/embeddings", {"model": "sim-embed", "input": "one", "dimensions": 8}),
        ("/generate", {"prompt": "a job's own"}),
    ],
)
def test_every_model_route_can_be_run_as_a_job(http: httpx2.Client, endpoint: str, body: dict[str, Any]) -> None:
    job = ended(http, submitted(http, {"endpoint": endpoint, "body": body}))
    direct = http.post(endpoint, json=body).json()
    assert job["result"].keys() == direct.keys()
    if endpoint == "/generate":
        assert job["result"]["result"] == direct["result"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings", "/generate"])
def test_a_model_route_answers_with_a_job_when_it_is_asked_to(http: httpx2.Client, prompt: str, path: str) -> None:
    bodies = {"/generate": {"prompt": prompt}, "/v1/embeddings": {"model": "sim-embed", "input": prompt}}
    answer = http.post(path, json=bodies.get(path, chat(prompt)), headers={"prefer": "wait=5, Respond-Async"})
    assert (answer.status_code, answer.headers["preference-applied"]) == (202, "respond-async")
    assert ended(http, answer.json()["id"])["state"] == "succeeded"


@pytest.mark.parametrize(("what", "change", "param"), BAD_PARAMETERS)
def test_a_body_that_the_route_refuses_is_no_job(
    http: httpx2.Client, what: str, change: dict[str, Any], param: str
) -> None:
    body = {name: value for name, value in (GOOD_CHAT | change).items() if value is not None}
    direct = http.post("/v1/chat/completions", json=body)
    answer = http.post("/v1/jobs", json={"endpoint": "/v1/chat/completions", "body": body})
    assert (answer.status_code, answer.json()) == (direct.status_code, direct.json()), what
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"endpoint": "/v1/models", "body": {}},
        {"endpoint": "/v1/chat/completions", "body": "x"},
        {"endpoint": "/v1/chat/completions"},
        submission("x", deadline_s=0),
        submission("x", deadline_s="1"),
        submission("x", metadata={"a": 1}),
        submission("x", priority="high"),
    ],
)
def test_what_is_no_job_is_a_400(http: httpx2.Client, asked: dict[str, Any]) -> None:
    answer = http.post("/v1/jobs", json=asked)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_value")


def test_a_request_of_more_than_256_kib_is_no_job(http: httpx2.Client) -> None:
    answer = http.post("/v1/jobs", json=submission("a" * 256 * 1024))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "payload_too_large")


def test_one_key_is_one_job_and_another_body_under_it_is_refused(
    stack: Platform, http: httpx2.Client, prompt: str
) -> None:
    key = {"idempotency-key": f"key of {prompt}"[:255].replace(" ", "-")}
    first = submitted(http, submission(prompt), **key)
    assert submitted(http, submission(prompt), **key) == first
    other = http.post("/v1/jobs", json=submission(f"{prompt} other"), headers=key)
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")
    with stack.http(stack.other_key) as bobs:
        assert submitted(bobs, submission(prompt), **key) != first
    ended(http, first)
    assert submitted(http, submission(prompt), **key) == first  # also when it is over


@pytest.mark.parametrize("key", [b"", b"a" * 256, b"two words", "ä".encode()])
def test_a_key_that_is_none_is_refused(http: httpx2.Client, prompt: str, key: bytes) -> None:
    answer = http.post("/v1/jobs", json=submission(prompt), headers={b"idempotency-key": key})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "invalid_idempotency_key", "Idempotency-Key")


def test_another_tenants_job_is_the_same_404_as_no_job(stack: Platform, http: httpx2.Client, prompt: str) -> None:
    job_id = submitted(http, submission(prompt))
    with stack.http(stack.other_key) as bobs:
        for method, path in (("GET", ""), ("GET", "/events"), ("DELETE", "")):
            foreign = bobs.request(method, f"/v1/jobs/{job_id}{path}")
            unknown = bobs.request(method, f"/v1/jobs/{UNKNOWN}{path}")
            assert (foreign.status_code, foreign.content) == (404, unknown.content)
        assert bobs.get("/v1/jobs", params={"after": job_id}).json()["data"] == []
    assert ended(http, job_id)["state"] == "succeeded"


def test_a_tenant_lists_its_own_jobs_newest_first_page_by_page(stack: Platform, prompt: str) -> None:
    with stack.http(make_key(stack.gateway, "lister")) as http:
        ids = [submitted(http, submission(f"{prompt} {number}")) for number in range(5)]
        for job_id in ids:
            ended(http, job_id)
        first = http.get("/v1/jobs", params={"limit": 3}).json()
        assert ([job["id"] for job in first["data"]], first["has_more"]) == (ids[:1:-1], True)
        second = http.get("/v1/jobs", params={"limit": 3, "after": first["last_id"]}).json()
        assert ([job["id"] for job in second["data"]], second["has_more"]) == (ids[1::-1], False)
        assert len(http.get("/v1/jobs", params={"state": "succeeded"}).json()["data"]) == 5
        assert http.get("/v1/jobs", params={"state": "queued"}).json()["data"] == []
        assert http.get("/v1/jobs", params={"state": "nonsense"}).status_code == 400


def test_a_streamed_chat_can_be_followed_and_read_as_a_whole(http: httpx2.Client, prompt: str) -> None:
    asked = {"endpoint": "/v1/chat/completions", "body": chat(f"{prompt} [[sim tokens=5]]", stream=True)}
    job_id = submitted(http, asked)
    events = events_of(http, job_id)
    assert [int(id_) for id_, _, _ in events] == list(range(len(events)))
    states = [json.loads(data)["state"] for _, type_, data in events if type_ == "state"]
    assert states == ["queued", "running", "succeeded"]
    chunks = [json.loads(data) for _, type_, data in events if type_ == "message"]
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"])
    whole = http.post("/v1/chat/completions", json=chat(f"{prompt} [[sim tokens=5]]")).json()
    assert text == whole["choices"][0]["message"]["content"]
    assert ended(http, job_id)["result"] == {"object": "list", "data": chunks}


def test_a_follower_cut_off_at_any_event_goes_on_with_nothing_lost_or_doubled(http: httpx2.Client, prompt: str) -> None:
    asked = {"endpoint": "/v1/chat/completions", "body": chat(f"{prompt} [[sim tokens=9 itl_ms=5]]", stream=True)}
    job_id = submitted(http, asked)
    whole = events_of(http, job_id)  # followed while it runs
    assert len(whole) > 10
    for cut in range(len(whole)):
        joined = whole[: cut + 1] + events_of(http, job_id, **{"last-event-id": whole[cut][0]})
        assert joined == whole


@pytest.mark.parametrize("last", ["-1", "x", "1.5", "9", "9" * 30])
def test_a_last_event_id_that_is_none_is_a_400(http: httpx2.Client, prompt: str, last: str) -> None:
    job_id = submitted(http, submission(prompt))
    answer = http.get(f"/v1/jobs/{job_id}/events", headers={"last-event-id": last})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "last-event-id")


def test_a_running_job_that_is_cancelled_stops_upstream(stack: Platform, http: httpx2.Client, prompt: str) -> None:
    asked = f"{prompt} [[sim how=stall]]"
    job_id = submitted(http, submission(asked))
    eventually(lambda: attempts_at(stack, asked))
    assert http.delete(f"/v1/jobs/{job_id}").json()["state"] == "cancelled"
    eventually(lambda: stopped(stack, asked))
    assert http.delete(f"/v1/jobs/{job_id}").json()["state"] == "cancelled"  # once more: the same
    assert ended(http, job_id)["state"] == "cancelled"


def test_a_final_refusal_fails_a_job_at_once(http: httpx2.Client, prompt: str) -> None:
    job = ended(http, submitted(http, submission(f"{prompt} [[sim status=400]]")))
    assert (job["state"], job["attempts"]) == ("failed", 1)
    assert job["error"]["type"] == "invalid_request_error"


def test_a_model_that_does_not_exist_fails_the_job_with_its_error(http: httpx2.Client, prompt: str) -> None:
    job = ended(http, submitted(http, {"endpoint": "/v1/chat/completions", "body": chat(prompt, model="nobody")}))
    assert (job["state"], job["error"]["code"]) == ("failed", "model_not_found")


def test_failing_attempts_are_three_each_with_one_upstream_call_and_then_a_dead_letter(
    stack: Platform, http: httpx2.Client, prompt: str
) -> None:
    asked = f"{prompt} [[sim status=500]]"
    job_id = submitted(http, submission(asked))
    job = ended(http, job_id)
    assert (job["state"], job["attempts"], job["result"]) == ("failed", 3, None)
    assert job["error"]
    assert len(attempts_at(stack, asked)) == 3
    with stack.http(ADMIN_KEY) as admin:
        (dead,) = [found for found in admin.get("/admin/jobs").json()["data"] if found["id"] == job_id]
        assert (dead["tenant"], dead["attempts"], dead["state"]) == ("alice", 3, "failed")
        assert prompt not in admin.get(f"/admin/jobs/{job_id}").text
        again = admin.put(f"/admin/jobs/{job_id}/retry")
        assert (again.status_code, again.json()["retry_of"]) == (202, job_id)
        assert admin.put(f"/admin/jobs/{job_id}/retry").json()["id"] == again.json()["id"]
        assert ended(http, again.json()["id"])["state"] == "failed"
        assert ended(http, job_id) == job  # a final state never changes
        assert admin.delete(f"/admin/jobs/{job_id}").status_code == 204
        assert admin.delete(f"/admin/jobs/{job_id}").status_code == 404
    gone = http.get(f"/v1/jobs/{job_id}")
    assert (gone.status_code, gone.json()["error"]["code"]) == (410, "job_gone")
    with stack.http(stack.other_key) as bobs:
        assert bobs.get(f"/v1/jobs/{job_id}").status_code == 404


def test_an_attempt_that_fails_once_is_made_up_for(http: httpx2.Client, prompt: str) -> None:
    job = ended(http, submitted(http, submission(f"{prompt} [[sim status=500 times=1]]")))
    assert (job["state"], job["attempts"]) == ("succeeded", 2)


def test_a_stream_that_breaks_is_run_again_and_its_first_chunks_are_told_apart(
    http: httpx2.Client, prompt: str
) -> None:
    body = chat(f"{prompt} [[sim tokens=6 how=fin cut_after=3 times=1]]", stream=True)
    job_id = submitted(http, {"endpoint": "/v1/chat/completions", "body": body})
    events = events_of(http, job_id)
    states = [json.loads(data)["state"] for _, type_, data in events if type_ == "state"]
    assert states == ["queued", "running", "delayed", "queued", "running", "succeeded"]
    result = ended(http, job_id)["result"]["data"]
    place = max(number for number, event in enumerate(events) if '"running"' in event[2])
    assert result == [json.loads(data) for _, type_, data in events[place:] if type_ == "message"]


def test_a_throttled_job_waits_without_using_an_attempt(stack: Platform, http: httpx2.Client, prompt: str) -> None:
    asked = f"{prompt} [[sim status=503 times=4]]"
    job = ended(http, submitted(http, submission(asked)))
    assert (job["state"], job["attempts"]) == ("succeeded", 1)
    assert len(attempts_at(stack, asked)) == 5


def test_a_job_whose_deadline_passes_is_expired_and_stops_upstream(
    stack: Platform, http: httpx2.Client, prompt: str
) -> None:
    asked = f"{prompt} [[sim how=stall]]"
    job = ended(http, submitted(http, submission(asked, deadline_s=1)))
    assert (job["state"], job["result"]) == ("expired", None)
    eventually(lambda: stopped(stack, asked))


def test_a_job_whose_key_is_revoked_before_it_ran_fails(cache_store: Valkey, tmp_path: Path, prompt: str) -> None:
    with (
        valkey("state", tmp_path) as own,
        platform(own.url, cache_store.url, workers=0) as started,
        started.http(ADMIN_KEY) as admin,
    ):
        with started.http() as http:
            job_id = submitted(http, submission(prompt))
        answer = admin.patch(f"/admin/keys/{started.key.split('_')[2]}", json={"enabled": False})
        assert answer.status_code == 200
        with worker(own.url, started.gateway), started.http(make_key(started.gateway, "alice")) as http:
            job = ended(http, job_id)
    assert (job["state"], job["attempts"], job["error"]["code"]) == ("failed", 1, "key_revoked")


def test_without_a_key_no_job_is_shown(http: httpx2.Client) -> None:
    for method, path in (
        ("POST", "/v1/jobs"),
        ("GET", "/v1/jobs"),
        ("GET", f"/v1/jobs/{UNKNOWN}"),
        ("GET", f"/v1/jobs/{UNKNOWN}/events"),
        ("DELETE", f"/v1/jobs/{UNKNOWN}"),
        ("GET", "/admin/jobs"),
        ("PUT", f"/admin/jobs/{UNKNOWN}/retry"),
        ("DELETE", f"/admin/jobs/{UNKNOWN}"),
    ):
        answer = http.request(method, path, headers={"authorization": "Bearer x"})
        assert answer.status_code == (415 if method == "POST" else 401), (method, path)
    assert http.get("/admin/jobs").status_code == 403


def test_a_token_of_a_worker_opens_no_door_when_it_is_for_another_service(stack: Platform) -> None:
    identity = HopIdentity("alice", stack.key.split("_")[2], "batch")
    for secret, audience, status in (
        (SECRETS["hop_secret"], "gateway", 200),
        (SECRETS["hop_secret"], "jobs", 401),
        (SECRETS["jobs_hop_secret"], "gateway", 401),
    ):
        with stack.http(authorization=HopSigner(secret, audience).authorization(identity)) as http:
            assert http.get("/v1/models").status_code == status


def attempts_at(stack: Platform, asked: str) -> list[dict[str, Any]]:
    """What reached the upstream of a prompt, whatever came between."""
    wanted = prompt_hash(chat(asked))
    return [attempt for attempt in stack.all_attempts() if attempt["prompt"] == wanted]


def stopped(stack: Platform, asked: str) -> bool:
    found = attempts_at(stack, asked)
    return bool(found) and all(attempt["cancelled"] for attempt in found)


def test_a_submission_pays_the_request_rate(stack: Platform, prompt: str) -> None:
    with stack.http(ADMIN_KEY) as admin:
        limits = {"requests_per_minute": 2, "tokens_per_minute": 1_000_000}
        asked = {"tenant": "hasty", "name": "x", "limits": limits}
        key = admin.post("/admin/keys", json=asked).json()["key"]
    with stack.http(key) as http:
        # The second may find that the first job has run already, which pays as well.
        first, _, refused = [
            http.post("/v1/jobs", json=submission(f"{prompt} {number}", deadline_s=60)) for number in range(3)
        ]
        assert first.status_code == 202
        assert (refused.status_code, refused.json()["error"]["type"]) == (429, "rate_limit_error")
        assert int(refused.headers["retry-after"]) >= 1


def test_a_field_that_no_client_may_set_is_refused_inside_a_job_as_well(http: httpx2.Client, prompt: str) -> None:
    body = chat(prompt, base_url="http://169.254.169.254")
    direct = http.post("/v1/chat/completions", json=body)
    answer = http.post("/v1/jobs", json={"endpoint": "/v1/chat/completions", "body": body})
    assert (answer.status_code, answer.json()) == (direct.status_code, direct.json())
    assert answer.status_code == 400

"""Step 4: what a request may use is reserved, and where every place is taken it waits for its turn."""

from __future__ import annotations

import base64
import gc
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from tests.support.request_path import DONE, Client, Path, answered, chat, chunk, usage_chunk
from tests.support.worlds import EPOCH_KEY, MODEL, NOW, OTHER_SECRET, SECRET, key, person, roll, world
from tests.support.worlds import replica as row

from daulat.core.quota import MINUTE_MS, Limit, Price
from daulat.core.snapshot import TenantRow
from daulat.pipeline.inference import Inference
from daulat.pipeline.turns import LENDING_SECONDS, Turn

TENANTS = tuple(
    TenantRow(f"tenant_{number}", base64.b64encode(EPOCH_KEY[::step]).decode(), house)
    for number, step, house in ((1, 1, "house"), (2, -1, "other"))
)
PEOPLE = (person(1), replace(person(2), tenant="tenant_2"))
REST = MINUTE_MS - NOW % MINUTE_MS  # of the minute in which the clock stands


def of(**bounds: int) -> tuple[Limit, ...]:
    """A limit of the first key's."""
    return (Limit("key", "which1", **bounds),)


def full(**changes: Any) -> Path:
    """Two tenants, and an engine with one slot."""
    return Path(tenants=TENANTS, people=PEOPLE, replicas=(row(1, slots=1),), **changes)


def refused(path: Path, client: Client) -> tuple[int, str, int]:
    path.journal.commit()
    headers = dict(client.headers)
    return client.status, client.error["code"], int(headers[b"retry-after"])


def test_a_spent_quota_says_when_to_come_back() -> None:
    path = Path(quotas=of(requests_per_minute=2))
    for _ in range(2):
        path.ask(chat())
        path.call.answer(answered())
    _, client = path.ask(chat())
    assert refused(path, client) == (429, "rate_limit_exceeded", -(-REST // 1000))
    assert "2 requests a minute" in client.error["message"]
    assert client.limits["x-ratelimit-remaining-requests"] == "0"
    assert path.journal.values("admission")[-1]["policies"] == ["gateway.rate"]
    assert path.ask(chat(), secret=OTHER_SECRET)[1].status == 0, "another key's quota is its own"
    path.clock.pass_seconds(REST / 1000)
    path.ask(chat())
    assert len(path.engines.calls) == 4


def test_who_has_no_limit_gets_no_headers_and_reserves_nothing() -> None:
    path = Path(quotas=of(requests_per_minute=2))
    inference, client = path.ask(chat(), secret=OTHER_SECRET)
    path.call.answer(answered())
    path.journal.commit()
    assert (client.status, client.limits, inference._turn) == (200, {}, None)
    assert not path.lender.exchanges


@pytest.mark.parametrize("stream", [False, True])
def test_tokens_are_reserved_by_estimate_and_settled_by_use(stream: bool) -> None:
    path = Path(quotas=of(tokens_per_minute=1000))
    path.journal.automatic = True
    body = chat(max_tokens=300, stream=stream)
    _, client = path.ask(body)
    reserved = 300 + -(-len(body) // 4)
    assert client.limits["x-ratelimit-limit-tokens"] == "1000"
    assert client.limits["x-ratelimit-remaining-tokens"] == str(1000 - reserved)
    if stream:
        path.call.begin()
        path.call.say(chunk() + usage_chunk(20, 10) + DONE)
    else:
        path.call.answer(answered(tokens=(20, 10)))
    assert client.whole
    _, client = path.ask(chat(max_tokens=300, stream=stream))
    assert client.limits["x-ratelimit-remaining-tokens"] == str(1000 - 30 - reserved)


@pytest.mark.parametrize("max_tokens", [30, 500])
def test_nothing_of_a_request_is_left_for_the_collector(max_tokens: int) -> None:
    """It comes so seldom in a worker that bodies and answers of some ten thousand requests would wait for it."""
    path = Path(quotas=of(tokens_per_minute=200))
    inference, client = path.ask(chat(max_tokens=max_tokens))
    if max_tokens == 30:
        path.call.answer(answered())
    path.journal.commit()
    assert client.status == (200 if max_tokens == 30 else 429)
    gc.collect()
    try:
        gc.set_debug(gc.DEBUG_SAVEALL)
        del inference, client
        path.engines.calls.clear()
        path.journal.records.clear()
        gc.collect()
        left = [each for each in gc.garbage if isinstance(each, Turn | Inference)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
    assert not left


def test_a_request_that_is_larger_than_the_limit_is_told_so() -> None:
    path = Path(quotas=of(tokens_per_minute=100))
    _, client = path.ask(chat(max_tokens=500))
    assert refused(path, client)[:2] == (429, "rate_limit_exceeded")
    assert "this request alone is for about" in client.error["message"]
    assert not path.engines.calls


def test_money_is_spent_by_the_price_table() -> None:
    prices = (Price("", "2020-01-01", 2 * 10**6, 10**6, 4 * 10**6),)
    path = Path(quotas=of(budget=3000 * 10**6), prices=prices)
    path.journal.automatic = True
    path.ask(chat(max_tokens=500))
    path.call.answer(answered(tokens=(100, 600)))  # 200 + 2400 of 3000
    _, client = path.ask(chat(max_tokens=200))
    assert (client.status, client.error["code"]) == (429, "insufficient_quota")
    path.ask(chat(max_tokens=50))
    assert len(path.engines.calls) == 2


def test_key_tenant_and_model_all_count() -> None:
    limits = (
        Limit("key", "which1", requests_per_minute=9),
        Limit("tenant", "house", requests_per_minute=8),
        Limit("model", MODEL, streams=2),
    )
    path = Path(quotas=limits)
    path.journal.automatic = True
    _, first = path.ask(chat())
    _, second = path.ask(chat(), secret=OTHER_SECRET)
    assert (first.limits["x-ratelimit-limit-requests"], first.limits["x-ratelimit-remaining-requests"]) == (
        "8",
        "7",
    )
    assert second.limits["x-ratelimit-remaining-requests"] == "6"
    _, third = path.ask(chat())
    assert (third.status, third.error["message"]) == (
        429,
        "The limit of this model is 2 answers at once, and they are under way.",
    )
    path.engines.calls[0].answer(answered())
    assert path.ask(chat())[1].status == 0


def test_a_client_that_leaves_pays_for_what_it_was_given() -> None:
    path = Path(quotas=of(tokens_per_minute=1000, streams=1))
    path.journal.automatic = True
    inference, _ = path.ask(chat(stream=True, max_tokens=400))
    path.call.begin()
    path.call.say(chunk() + chunk())
    inference.client_gone()
    _, client = path.ask(chat(max_tokens=1))
    assert client.limits["x-ratelimit-remaining-tokens"] == str(1000 - 2 - 1 - -(-len(chat(max_tokens=1)) // 4))


def test_nothing_is_answered_on_credit() -> None:
    path = Path(quotas=of(requests_per_minute=5))
    path.lender.down = True
    inference, client = path.ask(chat())
    path.journal.commit()
    assert (client.status, len(path.engines.calls), path.journal.records) == (0, 0, [])
    inference._turn.begun -= LENDING_SECONDS + 1  # type: ignore[union-attr]
    path.service.sweep(0.0)
    path.journal.commit()
    assert (client.status, client.error["code"]) == (503, "quota_unavailable")
    path.lender.down = False
    path.ask(chat())
    assert len(path.engines.calls) == 1
    assert path.journal.whole() or path.service.active


def test_a_full_engine_gets_the_next_request_when_it_is_free() -> None:
    path = full()
    path.journal.automatic = True
    clients = [path.ask(chat(max_tokens=8))[1] for _ in range(3)]
    assert (len(path.engines.calls), path.service.turns.waiting) == (1, 2)
    for number in range(3):
        assert len(path.engines.calls) == number + 1
        path.call.answer(answered())
    assert [client.status for client in clients] == [200] * 3
    assert path.at_rest()
    assert path.service.turns.waiting == 0


def test_counting_tokens_does_not_wait() -> None:
    path = full()
    path.ask(chat())
    path.ask(chat(), action="messages.tokens")
    assert len(path.engines.calls) == 2


@pytest.mark.parametrize(("weight", "share"), [(1, 1), (3, 3)])
def test_a_noisy_tenant_does_not_starve_another(weight: int, share: int) -> None:
    """Forty requests of one tenant's wait; the other's clients ask one by one."""
    path = full(quotas=(Limit("tenant", "other", weight=weight),))
    path.journal.automatic = True
    for _ in range(40):
        path.ask(chat(max_tokens=50))
    quiet = [path.ask(chat(max_tokens=50), secret=OTHER_SECRET)[1] for _ in range(3)]
    served: Counter[bool] = Counter()
    for _ in range(24):
        asked = path.call
        asked.answer(answered(tokens=(20, 50)))
        served[asked.sink._principal.tenant == "other"] += 1  # type: ignore[attr-defined]
        done = [client for client in quiet if client.whole]
        for client in done:
            quiet.remove(client)
            quiet.append(path.ask(chat(max_tokens=50), secret=OTHER_SECRET)[1])
    assert served[True] / served[False] == pytest.approx(share, rel=0.35)


def test_priorities_go_first() -> None:
    path = full(quotas=(Limit("tenant", "other", priority=5),))
    path.journal.automatic = True
    for _ in range(4):
        path.ask(chat())
    _, urgent = path.ask(chat(), secret=OTHER_SECRET)
    path.call.answer(answered())
    path.call.answer(answered())
    assert urgent.status == 200


def waiting(path: Path) -> tuple[Inference, Client]:
    """One that waits for a place."""
    path.journal.automatic = True
    path.ask(chat())
    made = path.ask(chat())
    assert path.service.turns.waiting == 1
    return made


def test_who_leaves_while_waiting_is_in_the_log_and_takes_no_place() -> None:
    path = full(quotas=of(requests_per_minute=2, tokens_per_minute=5000))
    inference, _ = waiting(path)
    inference.client_gone()
    assert path.service.turns.waiting == 0
    (denied,) = path.journal.values("completion")
    assert (denied["error"], denied["outcome"], denied["attempts"]) == ("client_left", "denied", [])
    path.ask(chat())
    path.call.answer(answered())
    assert len(path.engines.calls) == 2, "what it had reserved is there again"


def test_who_waits_too_long_is_told_so() -> None:
    path = full()
    inference, client = waiting(path)
    inference._turn.begun -= path.service.limits.engine_seconds + 1  # type: ignore[union-attr]
    path.service.sweep(0.0)
    assert (client.status, client.error["code"]) == (429, "rate_limit_exceeded")
    assert "Every place of 'small' was taken for 120 s" in client.error["message"]
    assert path.service.turns.waiting == 0


def test_a_revoked_key_does_not_wait_on() -> None:
    path = full()
    _, client = waiting(path)
    path.service.renew(world(path.clock, tenants=TENANTS, people=PEOPLE, keys=(key(2, OTHER_SECRET),)))
    assert (client.status, client.error["code"]) == (401, "revoked")


def test_a_new_replica_takes_who_waits() -> None:
    path = full()
    waiting(path)
    rows = (row(1, slots=1), row(2, slots=1))
    path.service.renew(world(path.clock, tenants=TENANTS, people=PEOPLE, replicas=rows))
    assert [call.replica.id for call in path.engines.calls] == ["replica_1", "replica_2"]


def test_where_the_last_replica_is_gone_nobody_waits() -> None:
    path = full()
    _, client = waiting(path)
    path.service.renew(world(path.clock, tenants=TENANTS, people=PEOPLE, replicas=()))
    assert (client.status, client.error["code"]) == (503, "no_replica")


def test_a_stopping_service_cuts_who_waits() -> None:
    path = full()
    inference, client = waiting(path)
    inference.cut("the service is stopping")
    assert (client.status, client.error["code"]) == (503, "interrupted")
    assert path.service.turns.waiting == 0


def test_a_roll_of_ten_thousand_limits_is_read_once() -> None:
    limits = tuple(Limit("tenant", f"t{number}", requests_per_minute=1) for number in range(10_000))
    made = roll(quotas=limits)
    path = Path(quotas=limits)
    assert len(made.quotas) == 10_000
    assert path.service.world.directory.limit("tenant", "t9999") == limits[-1]
    path.ask(chat(), secret=SECRET)
    assert len(path.engines.calls) == 1

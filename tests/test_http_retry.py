"""POST /tasks/retry: all tasks that match are queued again, after a count if that is wanted."""

from typing import Any

import http_support
import pytest
from http_support import House, refusal

house = http_support.house


async def ended(house: House, state: str, **settings: Any) -> int:
    id_ = await house.new_task(**settings)
    if state == "cancelled":
        async with house.post(f"/contexts/{id_}/cancel") as response:
            assert response.status == 202
    else:
        await house.fail(id_, await house.start(id_))  # its error says "no"
    return id_


async def asked(house: House, body: Any) -> dict[str, Any]:
    async with house.post("/tasks/retry", body) as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def queued(house: House, *ids: int) -> list[int]:
    return [id_ for id_ in ids if (await house.store.state(id_)).state == "queued"]


async def test_those_that_match_are_queued_again_and_no_others(house: House) -> None:
    one, other, gone = [
        await ended(house, state, queue=queue)
        for state, queue in (("failed", "here"), ("failed", "there"), ("cancelled", "here"))
    ]
    assert await asked(house, {"state": ["failed"], "queue": "here", "error": "nothing like it"}) == {
        "matched": 0, "requeued": 0, "refused": {},
    }  # fmt: skip
    done = {"matched": 1, "requeued": 1, "refused": {}}
    assert await asked(house, {"state": ["failed"], "queue": "here", "error": "no"}) == done
    assert await queued(house, one, other, gone) == [one]
    assert await asked(house, {"state": ["cancelled"]}) == done
    assert await queued(house, one, other, gone) == [one, gone]


async def test_a_dry_run_counts_them_and_changes_nothing(house: House) -> None:
    ids = [await ended(house, "failed", queue="dry") for _ in range(3)]
    before = await house.event_count()
    assert await asked(house, {"state": ["failed"], "queue": "dry", "dry_run": True}) == {
        "matched": 3, "requeued": 0, "refused": {},
    }  # fmt: skip
    assert (await queued(house, *ids), await house.event_count()) == ([], before)


async def test_one_that_cannot_be_queued_again_is_named_and_keeps_no_other(house: House) -> None:
    keyed = await ended(house, "failed", queue="keyed", singleton_key="k")
    free = await ended(house, "failed", queue="keyed")
    await house.new_task(singleton_key="k")
    done = await asked(house, {"state": ["failed"], "queue": "keyed"})
    assert (done["matched"], done["requeued"], list(done["refused"])) == (2, 1, [str(keyed)])
    assert "singleton_key" in done["refused"][str(keyed)]
    assert await queued(house, keyed, free) == [free]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/state"),
        ({"state": []}, "/state"),
        ({"state": "failed"}, "/state"),
        ({"state": ["done"]}, "/state"),
        ({"state": ["failed", 7]}, "/state/1"),
        ({"state": ["failed"], "queue": ""}, "/queue"),
        ({"state": ["failed"], "error": ""}, "/error"),
        ({"state": ["failed"], "dry_run": "yes"}, "/dry_run"),
        ({"state": ["failed"], "worker": "hello.py"}, "/worker"),
        ([], None),
    ],
    ids=str,
)
async def test_what_is_no_choice_is_refused_and_changes_nothing(house: House, body: Any, pointer: str | None) -> None:
    id_ = await ended(house, "failed")
    async with house.post("/tasks/retry", body) as response:
        await refusal(response, 422, "invalid-input", pointer)
    assert await queued(house, id_) == []


async def test_nul_in_the_text_that_is_looked_for_is_refused(house: House) -> None:
    async with house.post("/tasks/retry", {"state": ["failed"], "error": "a\0b"}) as response:
        await refusal(response, 422, "invalid-input")

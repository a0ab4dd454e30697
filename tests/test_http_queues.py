"""GET and PATCH /queues."""

from typing import Any

import http_support
import pytest
from http_support import House, refusal

house = http_support.house

SHOWN = {
    "name", "paused", "concurrency", "global_concurrency", "key_concurrency", "rate", "key_rate", "aging", "shared",
    "run_in", "settings", "depth", "oldest_age", "running", "states",
}  # fmt: skip


async def patched(house: House, name: str, **wanted: Any) -> Any:
    async with house.ask("PATCH", f"/queues/{name}", json=wanted) as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def test_a_patch_makes_a_queue_and_changes_what_it_mentions(house: House) -> None:
    made = await patched(house, "made", concurrency=3, rate="100/1m", retry_limit=0, aging="1h")
    assert set(made) == SHOWN
    changed = await patched(house, "made", paused=True, rate=None)
    assert (changed["paused"], changed["concurrency"], changed["rate"]) == (True, 3, None)
    assert changed["aging"] == 3600.0
    assert changed["settings"] == {"retry_limit": 0}
    async with house.get("/queues/made") as response:
        assert (response.status, await response.json()) == (200, changed)


async def test_a_queue_shows_what_is_in_it(house: House) -> None:
    await house.new_task(queue="filled")
    await house.start(await house.new_task(queue="filled"))
    async with house.get("/queues") as response:
        page = await response.json()
    assert page["next"] is None
    (filled,) = [queue for queue in page["items"] if queue["name"] == "filled"]
    assert (filled["depth"], filled["running"], filled["states"]) == (1, 1, {"queued": 1, "running": 1})
    assert filled["oldest_age"] >= 0


async def test_the_settings_of_a_queue_go_into_the_tasks_that_do_not_say(house: House) -> None:
    await patched(house, "patient", retry_limit=9)
    async with house.get(f"/contexts/{await house.new_task(queue='patient')}") as response:
        assert (await response.json())["settings"]["retry_limit"] == 9


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"concurency": 1}, "/concurency"),
        ({"concurrency": "3"}, "/concurrency"),
        ({"rate": "100"}, "/rate"),
        ({"retry_delay": "soon"}, "/retry_delay"),
        ([], None),
    ],
)
async def test_what_does_not_fit_is_422_and_says_where(house: House, body: Any, pointer: str | None) -> None:
    async with house.ask("PATCH", "/queues/refused", json=body) as response:
        await refusal(response, 422, "invalid-input", pointer)
    async with house.get("/queues/refused") as response:
        await refusal(response, 404, "not-found")


@pytest.mark.parametrize("name", ["Upper", "a-b", "1", "%00", "%C3%AB", "%FF", "a" * 64])
async def test_what_is_no_name_makes_no_queue_and_is_none(house: House, name: str) -> None:
    async with house.ask("PATCH", f"/queues/{name}", json={}) as response:
        await refusal(response, 422, "invalid-input")
    async with house.get(f"/queues/{name}") as response:
        await refusal(response, 404, "not-found")

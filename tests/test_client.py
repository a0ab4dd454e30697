"""damad.client: what can be asked, how a daemon is found, and how it is said what was refused."""

import asyncio
import sys
from pathlib import Path
from uuid import uuid4

import client_support
import http_support
import pytest
from client_support import client_of
from daemon_support import daemon_on, site_of
from http_support import PG_ENV, SOON, House, new_database, running

from damad.client import Client, Refused
from damad.errors import (
    EventUuidConflict,
    IllegalTransition,
    InvalidInput,
    InvalidWorker,
    NotFound,
    TaskCancelled,
    TaskFailed,
    VersionConflict,
)

house, damad, cut = http_support.house, client_support.damad, client_support.cut

PAGE = Path(__file__).parent.parent / "docs" / "client.md"


# --- what it does ---


async def test_a_task_is_queued_waited_for_and_read(house: House, damad: Client) -> None:
    id_ = await damad.queue("hello.py", {"n": 1}, queue="slow", priority=3)
    waiting = asyncio.create_task(damad.wait(id_))
    fence = await house.start(id_)
    await house.append(id_, ":FINAL", {"done": True}, fence)
    final = await waiting
    assert (final.type, final.payload) == (":FINAL", {"done": True})
    read = await damad.read(id_)
    assert [event.version for event in read] == [1, 2, 3, 4] and read[-1] == final
    assert [event.type for event in await damad.read(id_, after_version=2, types=[":FINAL"])] == [":FINAL"]
    state = await house.store.state(id_)
    assert (state.queue, state.priority) == ("slow", 3)  # type: ignore[attr-defined]


async def test_the_unix_socket_needs_no_token_also_where_its_path_is_long(template: str, tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    async with running(folder, await new_database(template)) as house:
        assert len(str(house.addresses.socket)) > 107
        async with client_of(house.addresses.socket, token=None) as damad:
            id_ = await damad.queue("hello.py")
            assert [event.type for event in await damad.read(id_)] == [":INITIAL"]


async def test_without_an_address_it_finds_the_socket_in_the_state_folder_that_is_configured(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAMAD_STATE_DIR", str(house.settings.state_dir))
    async with Client(pg_env=PG_ENV) as damad:
        assert await damad.queue("hello.py") > 0


async def test_events_are_appended_all_or_none_and_read_page_by_page(house: House, damad: Client) -> None:
    id_, other = await house.new_context(), await house.new_context()
    recorded = await damad.append(id_, {"type": ":A", "payload": 1}, {"type": ":B"}, expected_version=1)
    assert [(event.type, event.version) for event in recorded] == [(":A", 2), (":B", 3)]
    with pytest.raises(IllegalTransition):
        await damad.append(other, {"type": ":A"}, {"type": ":INITIAL"})
    assert await damad.read(other, after_version=1) == []
    await damad.append(id_, *({"type": ":MORE", "payload": number} for number in range(1200)))
    found = await damad.read(id_, after_version=3)
    assert [event.payload for event in found] == list(range(1200))


async def test_a_task_that_failed_or_was_cancelled_is_raised_with_its_error(house: House, damad: Client) -> None:
    failed, cancelled = await damad.queue("hello.py"), await damad.queue("hello.py")
    await house.fail(failed, await house.start(failed))
    async with house.post(f"/contexts/{cancelled}/cancel"):
        pass
    with pytest.raises(TaskFailed, match=r"\(exception\): no") as caught:
        await damad.wait(failed)
    assert caught.value.values["error"]["kind"] == "exception"
    with pytest.raises(TaskCancelled):
        await damad.wait(cancelled)


async def test_who_waits_no_longer_than_it_said_hears_so(damad: Client) -> None:
    id_ = await damad.queue("hello.py")
    with pytest.raises(TimeoutError):
        await damad.wait(id_, timeout=0.2)


# --- what is refused, is raised as it is everywhere ---


async def test_a_refusal_is_raised_as_the_error_that_it_is_of(house: House, damad: Client) -> None:
    id_ = await house.new_context()
    with pytest.raises(NotFound):
        await damad.read(2**62)
    with pytest.raises(InvalidWorker) as caught:
        await damad.queue("nowhere.py")
    assert caught.value.pointer == "/worker"
    with pytest.raises(InvalidInput, match="retry_limit"):
        await damad.queue("hello.py", retry_limit=-1)
    with pytest.raises(VersionConflict) as conflict:
        await damad.append(id_, {"type": ":A"}, expected_version=7)
    assert conflict.value.values["version"] == 1
    uuid = str(uuid4())
    await damad.append(id_, {"type": ":A", "event_uuid": uuid})
    with pytest.raises(EventUuidConflict):
        await damad.append(id_, {"type": ":B", "event_uuid": uuid})


async def test_without_the_token_it_is_refused_at_once(house: House) -> None:
    async with client_of(house.addresses.url, token="another") as damad:
        with pytest.raises(Refused, match="token") as caught:
            await damad.queue("hello.py")
        assert caught.value.values == {"status": 401, "problem": "unauthorized"}
        with pytest.raises(Refused):
            await anext(damad.follow())


async def test_a_client_that_is_not_open_says_so(house: House) -> None:
    with pytest.raises(InvalidInput, match="async with"):
        await Client(house.addresses.url).queue("hello.py")


async def test_what_the_page_shows_works(template: str, tmp_path: Path) -> None:
    example = PAGE.read_text().split("```python\n")[1].split("```")[0]
    async with site_of(tmp_path, template) as site, daemon_on(site):
        site.worker("def main(event):\n    return {'greeting': event['payload']['name']}\n", "hello.py")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", example, env=site.environment, stdout=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(SOON):
            said, _ = await process.communicate()
    lines = said.decode().splitlines()
    assert process.returncode == 0
    assert lines[0] == ":FINAL {'greeting': 'world'}" and lines[1].startswith("attempt 1 began at ")
    assert [line.split()[1] for line in lines[2:]] == [":INITIAL", "dama/task:CLAIMED", "dama/task:STARTED", ":FINAL"]

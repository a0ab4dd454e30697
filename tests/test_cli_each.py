"""damad queue --each: a task for each line of a file, or none of them; and what is said of keys that others have."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from daemon_support import Done, Site, site_of


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def site(template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """No daemon is needed to queue."""
    async with site_of(tmp_path_factory.mktemp("each"), template) as site:
        site.worker("def main():\n    return {}\n", "ok.py")
        yield site
        await site.verified()


async def payloads(site: Site, done: Done) -> list[Any]:
    """What the tasks got whose ids a command printed."""
    assert (done.code, done.err) == (0, "")
    return [(await site.events(int(id_)))[0].payload for id_ in done.out.split()]


async def count(site: Site) -> int:
    return len(await site.store().tasks(limit=10_000))


@pytest.mark.parametrize("how", ["file", "stdin"])
async def test_each_line_is_the_payload_of_a_task_and_each_id_is_printed(site: Site, how: str) -> None:
    lines = '{"file": "stops.txt"}\n\n[1, null]\r\n"\u2028 Gr\u00fc\u00dfe"\n7'
    (site.folder / "payloads.jsonl").write_text(lines, encoding="utf-8", newline="")
    word, stdin = {"file": ("payloads.jsonl", None), "stdin": ("-", lines)}[how]
    done = await site.damad("queue", "ok.py", "--each", word, "--priority", "3", stdin=stdin)
    assert await payloads(site, done) == [{"file": "stops.txt"}, [1, None], "\u2028 Gr\u00fc\u00dfe", 7]
    assert {(await site.state(int(id_))).priority for id_ in done.out.split()} == {3}


async def test_with_json_each_id_is_an_object_on_its_line(site: Site) -> None:
    done = await site.damad("queue", "ok.py", "--each", "-", "--json", stdin="1\n2\n")
    assert [list(json.loads(line)) for line in done.out.splitlines()] == [["etl_context_id"]] * 2


async def test_more_than_fit_into_one_statement_are_queued_in_order(site: Site) -> None:
    (site.folder / "many.jsonl").write_text("".join(f"{n}\n" for n in range(2500)))
    done = await site.damad("queue", "ok.py", "--each", "many.jsonl")
    ids = [int(line) for line in done.out.split()]
    assert len(ids) == 2500 and ids == sorted(ids)
    assert [(await site.events(ids[n]))[0].payload for n in (0, 999, 1000, 2499)] == [0, 999, 1000, 2499]


async def test_no_line_is_no_task(site: Site) -> None:
    done = await site.damad("queue", "ok.py", "--each", "-", stdin="\n")
    assert (done.code, done.out, done.err) == (0, "", "")


@pytest.mark.parametrize("bad", ["{", "nan", '"\\u0000"', "[" * 65 + "]" * 65, '{"a": 1, "a": 2}', "1 2", "\ufeff1"])
async def test_a_line_that_is_wrong_is_named_and_nothing_is_queued(site: Site, bad: str) -> None:
    before = await count(site)
    lines = "".join(f"{n}\n" for n in range(1200)) + f"\n{bad}\n1\n"
    done = await site.damad("queue", "ok.py", "--each", "-", stdin=lines)
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1), done
    assert "--each, line 1202" in done.err, done.err
    assert await count(site) == before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--each", "absent.jsonl"], "absent.jsonl"),
        (["--each", "."], "--each ."),
        (["--each", "-", "--payload", "1"], "--payload"),
        (["--each", "-", "--wait"], "--wait"),
        (["--each", "-", "--priority", "high"], "priority"),
        (["--each", "-", "--debounce", "1h"], "singleton_key"),
    ],
)
async def test_what_does_not_go_with_it_is_refused(site: Site, words: list[str], says: str) -> None:
    before = await count(site)
    done = await site.damad("queue", "ok.py", *words, stdin="1\n2\n")
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1), done
    assert says in done.err
    assert await count(site) == before


# --- keys that another task has ---


async def test_who_asks_for_one_that_is_open_gets_its_id_and_is_told_why(site: Site) -> None:
    words = ["queue", "ok.py", "--singleton-key", "k", "--debounce", "1h"]
    first = await site.damad(*words)
    assert (first.code, first.err) == (0, "")
    again = await site.damad(*words, "--payload", "2", "--json")
    assert again.json == {"etl_context_id": int(first.out), "suppressed": "debounce"}
    assert again.err == "damad: 1 of 1 not queued: the task with this singleton_key had not begun, and was put off\n"
    third = await site.damad("queue", "ok.py", "--singleton-key", "k")
    assert (third.code, third.out) == (0, first.out)
    assert third.err == "damad: 1 of 1 not queued: a task with this singleton_key is open, and its id is the answer\n"


async def test_who_asks_too_often_gets_the_id_of_the_last_one_and_is_told_why(site: Site) -> None:
    words = ["queue", "ok.py", "--singleton-key", "t", "--throttle", "1h"]
    first = await site.damad(*words)
    await site.cancel(int(first.out))
    again = await site.damad(*words)
    assert (again.code, again.out) == (0, first.out)
    why = "a task with this singleton_key was queued not so long ago, and its id is the answer"
    assert again.err == f"damad: 1 of 1 not queued: {why}\n"


async def test_run_takes_no_singleton_key_that_an_open_task_has(site: Site) -> None:
    id_ = (await site.damad("queue", "ok.py", "--singleton-key", "r")).out.strip()
    done = await site.damad("run", "ok.py", "--singleton-key", "r")
    assert (done.code, done.out) == (2, "")
    assert done.err == f"damad: the task of this singleton_key is context {id_}, which is queued\n"

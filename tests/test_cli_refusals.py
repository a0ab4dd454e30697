"""What the command line refuses: one clear line on stderr, nothing on stdout, exit code 2, and nothing happened."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from daemon_support import Done, Site, site_of


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def site(template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """No daemon is needed to refuse."""
    async with site_of(tmp_path_factory.mktemp("refusals"), template) as site:
        site.worker("def main():\n    return {}\n", "ok.py")
        yield site
        await site.quiet()


async def refused(site: Site, *words: str, says: tuple[str, ...] = (), **environment: str) -> None:
    before = await site.verified()
    done: Done = await site.damad(*words, stdin="", **environment)
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1), done
    for part in says:
        assert part in done.err, done.err
    assert done.err.startswith("damad: ")
    assert await site.verified() == before


# --- workers ---


@pytest.mark.parametrize("command", ["queue", "run"])
@pytest.mark.parametrize(
    ("worker", "says"),
    [
        ("absent.py", "absent.py"),
        ("../outside.py", "outside"),
        ("/etc/passwd", "outside"),
        ("folder.py", "regular"),
        ("ok.txt", "no language that damad runs: its name ends in none of .py"),
        ("open.py", "written by others"),
        ("open/inner.py", "written by others"),
        ("link.py", "outside"),
        ("", "ok.py"),
    ],
)
async def test_a_worker_that_may_not_be_run(site: Site, command: str, worker: str, says: str) -> None:
    (site.folder / "outside.py").write_text("")
    (site.workers / "folder.py").mkdir(exist_ok=True)
    (site.workers / "ok.txt").write_text("")
    (site.workers / "open.py").write_text("")
    (site.workers / "open.py").chmod(0o666)
    (site.workers / "open").mkdir(exist_ok=True)
    (site.workers / "open").chmod(0o777)
    (site.workers / "open" / "inner.py").write_text("")
    if not (site.workers / "link.py").is_symlink():
        (site.workers / "link.py").symlink_to(site.folder / "outside.py")
    await refused(site, command, worker, says=(says,) if worker else ())


# --- payloads and settings ---


@pytest.mark.parametrize(
    "payload",
    ["{", "nothing", "{'a': 1}", '{"a": 1, "a": 2}', "NaN", "[1e999]", '"\\u0000"', '"\\ud800"', "[" * 100 + "]" * 100,
     "", "1 2", "@absent.json", "@.", "-"],
)  # fmt: skip
async def test_a_payload_that_is_no_json(site: Site, payload: str) -> None:
    await refused(site, "queue", "ok.py", "--payload", payload, says=("payload",))


async def test_an_empty_payload_is_called_what_it_is(site: Site) -> None:
    await refused(site, "queue", "ok.py", "--payload", "", says=("damad: --payload is empty",))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--no-such-setting", "1"], "no-such-setting"),
        (["--retry-limit", "many"], "retry_limit 'many' is no whole number"),
        (["--retry-limit", "-1"], "retry_limit"),
        (["--retry-limit", "1.5"], "retry_limit"),
        (["--priority", "99999999999"], "priority"),
        (["--priority", "high"], "priority"),
        (["--expire-in", "soon"], "soon"),
        (["--expire-in", "0"], "expire_in"),
        (["--retry-delay", "-1"], "retry"),
        (["--start-after", "tomorrow"], "tomorrow"),
        (["--start-after", "2026-01-31T08:00:00"], "offset"),
        (["--run-in", "moon"], "run_in"),
        (["--queue", "Not A Name"], "queue"),
        (["--meta", "[1]"], "meta"),
        (["--meta", "{"], "meta"),
        (["--meta", '{"__dama_task_manager__": {}}'], "reserved"),
        (["--parent-context-id", "999999"], "parent"),
        (["--parent-context-id", "x"], "parent"),
        (["--parent-context-id", "99999999999999999999"], "there is no such parent context: 99999999999999999999"),
        (["--parent-context-id", "-1"], "there is no such parent context: -1"),
        (["--source-id", "99999999999999999999"], "there is no such source: 99999999999999999999"),
        (["--source-id", "999999"], "source"),
        (["--idempotency-key", ""], "idempotency_key"),
        (["another.py"], "too many words: 'another.py'"),
    ],
)
async def test_a_setting_that_does_not_fit(site: Site, words: list[str], says: str) -> None:
    await refused(site, "queue", "ok.py", *words, says=(says,))


async def test_run_takes_no_other_payload_and_no_other_setting(site: Site) -> None:
    await refused(site, "run", "ok.py", "--payload", "{", says=("payload",))
    await refused(site, "run", "ok.py", "--retry-limit", "many", says=("retry_limit",))
    await refused(site, "run", "ok.py", "--no-such-setting", "1", says=("no-such-setting",))


@pytest.mark.parametrize(
    "words", [["--payload", "1"], ["--payload", "null"], ["--priority", "0"], ["--no-retry-backoff"], ["--meta", "{}"]]
)
async def test_run_takes_nothing_that_would_change_a_task_that_is_there(site: Site, words: list[str]) -> None:
    queued = await site.queue("ok.py")
    await refused(site, "run", "--context", str(queued), *words, says=("--context", "--payload", "settings"))
    assert await site.types(queued) == [":INITIAL"]
    await site.cancel(queued)


async def test_run_takes_no_idempotency_key_that_was_seen_before(site: Site) -> None:
    for command in ("run", "queue"):
        first = await site.damad(command, "ok.py", "--idempotency-key", command)
        assert first.code == 0
        id_ = (await site.store().tasks(limit=1))[0].etl_context_id
        state = (await site.state(id_)).state
        says = (f"the task of this idempotency_key is context {id_}, which is {state}",)
        await refused(site, "run", "ok.py", "--idempotency-key", command, says=says)
    await site.cancel(id_)


async def test_debug_without_debugpy_is_refused_before_anything_is_queued(site: Site, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['debugpy'] = None\n")
    queued = await site.queue("ok.py")
    for words in (["ok.py"], ["--context", str(queued)]):
        await refused(site, "run", *words, "--debug", says=("damad[debug]",), PYTHONPATH=str(tmp_path))
    await site.cancel(queued)


async def test_an_idempotency_key_of_another_task(site: Site) -> None:
    first = await site.damad("queue", "ok.py", "--idempotency-key", "k", "--payload", "1")
    assert first.code == 0
    await refused(site, "queue", "ok.py", "--idempotency-key", "k", "--payload", "2", says=("idempotency_key",))


@pytest.mark.parametrize("timeout", ["soon", "-1"])
async def test_a_timeout_that_is_no_duration(site: Site, timeout: str) -> None:
    await refused(site, "queue", "ok.py", "--wait", "--timeout", timeout, says=("timeout",))


async def test_a_timeout_where_nobody_waits(site: Site) -> None:
    await refused(site, "queue", "ok.py", "--timeout", "5s", says=("--timeout", "--wait"))


async def test_a_version_that_no_context_has(site: Site) -> None:
    queued = str(await site.queue("ok.py"))
    for version in ("-1", str(2**63)):
        await refused(site, "events", queued, "--after-version", version, says=("--after-version", "from 0"))
    await refused(site, "events", "--after-version", "0", says=("--after-version", "id"))
    await site.cancel(int(queued))


# --- contexts ---


@pytest.mark.parametrize(
    ("command", "id_"),
    [
        *(("show", id_) for id_ in ("999999", "0", "x", "1.5", str(2**63), "٣")),
        *((command, id_) for command in ("events", "logs", "cancel", "retry") for id_ in ("999999", "x")),
    ],
)
async def test_a_context_that_is_not_there(site: Site, command: str, id_: str) -> None:
    await refused(site, command, id_, says=(id_,))


async def test_following_a_context_that_is_not_there_ends_too(site: Site) -> None:
    await refused(site, "events", "999999", "--follow", says=("999999",))
    await refused(site, "logs", "999999", "-f", says=("999999",))
    await refused(site, "run", "--context", "999999", says=("999999",))


async def test_what_a_state_forbids(site: Site) -> None:
    queued = await site.queue("ok.py")
    await refused(site, "retry", str(queued), says=("queued",))
    await site.cancel(queued)
    await refused(site, "cancel", str(queued), says=("cancelled",))
    plain = await site.store().create_context()
    for command in ("cancel", "retry"):
        await refused(site, command, str(plain), says=("no task",))
    await refused(site, "run", "--context", str(plain), says=(str(plain),))


async def test_a_log_that_is_not_there(site: Site) -> None:
    queued = await site.queue("ok.py")
    await refused(site, "logs", str(queued), says=("log",))
    await refused(site, "logs", str(queued), "--attempt", "7", says=("7",))
    await site.cancel(queued)


# --- words ---


@pytest.mark.parametrize(
    "words",
    [
        ["nonsense"], ["queue"], ["show"], ["tasks", "--limit", "many"], ["tasks", "--limit", "0"],
        ["tasks", "--parent", "99999999999999999999"],
        ["tasks", "--state", "asleep"], ["tasks", "--nonsense"], ["run"], ["run", "ok.py", "--context", "1"],
        ["run", "ok.py", "--pdb", "--debug"], ["systemd", "nonsense"], ["show", "1", "2"], ["serve", "--port", "many"],
        ["events", "1", "--after-version", "x"], ["verify", "--nonsense"],
        ["systemd", "print", "--folder", "absent"], ["systemd", "print", "--user", "a b"],
    ],
)  # fmt: skip
async def test_words_that_make_no_command(site: Site, words: list[str]) -> None:
    await refused(site, *words)


# --- pg_envs and settings of damad itself ---


@pytest.mark.parametrize("words", [["tasks"], ["queue", "ok.py"], ["run", "ok.py"], ["serve"], ["migrate"], ["verify"]])
async def test_an_unknown_pg_env(site: Site, words: list[str]) -> None:
    await refused(site, *words, "--pg-env", "nowhere", says=("nowhere", "local"))


async def test_several_pg_envs_of_which_none_is_named(site: Site) -> None:
    other = {"DAMAD_PG_ENV_OTHER_DSN": site.environment["DAMAD_PG_ENV_LOCAL_DSN"]}
    await refused(site, "tasks", says=("local", "other", "--pg-env"), **other)
    assert (await site.damad("tasks", "--pg-env", "other", **other)).code == 0


@pytest.mark.parametrize("words", [["tasks"], ["queue", "ok.py"], ["run", "ok.py"], ["migrate"], ["verify"]])
async def test_postgres_that_is_away(site: Site, words: list[str]) -> None:
    away = f"postgresql://damad@/nowhere?host={site.folder}"
    await refused(site, *words, says=("Postgres is away",), DAMAD_PG_ENV_LOCAL_DSN=away)


@pytest.mark.parametrize("words", [["tasks"], ["queue", "ok.py"], ["run", "ok.py"], ["verify"], ["events"]])
async def test_a_database_without_damads_schema(site: Site, server: str, words: list[str]) -> None:
    done = await site.damad(*words, DAMAD_PG_ENV_LOCAL_DSN=server)
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1), done
    assert "damad migrate" in done.err


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DAMAD_PORT", "many"),
        ("DAMAD_PORT", "70000"),
        ("DAMAD_LEASE", "a while"),
        ("DAMAD_LEASE", "0"),
        ("DAMAD_MAX_BODY", "large"),
        ("DAMAD_AUTO_MIGRATE", "perhaps"),
        ("DAMAD_QUEUE_DEFAULT_CONCURRENCY", "-1"),
        ("DAMAD_QUEUE_DEFAULT_RUN_IN", "moon"),
        ("DAMAD_QUEUE_DEFAULT_EXPIRE_IN", "soon"),
        ("DAMAD_PG_ENV_LOCAL_DSN", "localhost"),
        ("DAMAD_STATE_DIR", "/proc/nowhere"),
    ],
)
async def test_a_wrong_setting_stops_the_start_with_one_line_that_names_it(site: Site, name: str, value: str) -> None:
    setting = name.removeprefix("DAMAD_").lower()
    done = await site.damad("serve", "--port", *(["many"] if name == "DAMAD_PORT" else ["0"]), **{name: value})
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1), done
    assert name in done.err or setting in done.err or setting.split("_")[-1] in done.err.lower()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("leese = 3", "leese"),
        ("[queue.default]\nconcurency = 3", "concurency"),
        ("[pg_env.local]\nhost = 'x'", "host"),
        ("lease = ", "damad.toml"),
        ("[queue.'Big']\nconcurrency = 1", "Big"),
    ],
)
async def test_a_setting_that_a_file_does_not_know(site: Site, tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "damad.toml").write_text(text)
    done = await site.damad("serve", "--port", "0", folder=tmp_path)
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1), done
    assert says in done.err
    assert "damad.toml" in done.err


async def test_an_unknown_variable_is_ignored(site: Site) -> None:
    assert (await site.damad("tasks", DAMAD_NO_SUCH_SETTING="1")).code == 0

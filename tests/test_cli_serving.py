"""`serve` and `migrate`: what they say when all is well."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import aiohttp
import asyncpg
import pytest
import pytest_asyncio
from daemon_support import Daemon, Site, site_of
from postgres_support import in_database, sql

TABLES = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'data_manager'"


@pytest_asyncio.fixture
async def site(template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with site_of(tmp_path_factory.mktemp("serving"), template) as site:
        yield site


@pytest_asyncio.fixture
async def empty(server: str) -> AsyncIterator[str]:
    """The DSN of a database with nothing in it."""
    name = f"empty_{uuid4().hex[:12]}"
    await sql(server, f"CREATE DATABASE {name}")
    yield in_database(server, name)
    await sql(server, f"DROP DATABASE {name} WITH (FORCE)")


async def count_of(dsn: str, statement: str) -> int:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


# --- migrate ---


async def test_migrate_makes_the_schema_from_nothing_and_the_second_time_changes_nothing(
    site: Site, empty: str
) -> None:
    environment = {"DAMAD_PG_ENV_LOCAL_DSN": empty}
    first = await site.damad("migrate", "--json", **environment)
    assert (first.code, first.err) == (0, "")
    (done,) = first.json
    assert (done["pg_env"], done["before"], done["changed"]) == ("local", None, True)
    (again,) = (await site.damad("migrate", "--json", **environment)).json
    assert (again["before"], again["after"], again["changed"]) == (done["after"], done["after"], False)
    for_people = await site.damad("migrate", **environment)
    assert (for_people.code, for_people.out) == (0, f"pg_env local is at schema {done['after']}\n")
    assert (await site.damad("verify", "--json", **environment)).json == {
        "contexts": 0, "events": 0, "mismatches": [],
    }  # fmt: skip


async def test_migrate_run_many_times_at_once_makes_one_schema(site: Site, empty: str) -> None:
    runs = await asyncio.gather(*(site.damad("migrate", "--json", DAMAD_PG_ENV_LOCAL_DSN=empty) for _ in range(4)))
    assert [run.code for run in runs] == [0] * 4, runs
    assert sum(run.json[0]["changed"] for run in runs) == 1


async def test_migrate_serves_every_pg_env_or_the_one_that_is_named(site: Site, empty: str) -> None:
    other = {"DAMAD_PG_ENV_OTHER_DSN": empty}
    (only,) = (await site.damad("migrate", "--json", "--pg-env", "local", **other)).json
    assert only["pg_env"] == "local"
    assert await count_of(empty, TABLES) == 0
    both = (await site.damad("migrate", "--json", **other)).json
    assert [done["pg_env"] for done in both] == ["local", "other"]
    assert await count_of(empty, TABLES) > 0


# --- serve ---


async def test_the_ready_line_says_where_it_listens_and_both_answer(site: Site) -> None:
    daemon = Daemon(site)
    await daemon.start()
    line = re.fullmatch(r"damad ready on (http://127\.0\.0\.1:\d+) and (\S+)\n", daemon.ready)
    assert line is not None
    assert line[2] == str(site.state_dir / "damad.sock")
    token = (site.state_dir / "token").read_text().strip()
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as over_tcp,
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(line[2])) as over_unix,
    ):
        for client, root in ((over_tcp, line[1]), (over_unix, "http://localhost")):
            async with client.get(f"{root}/v1/local/tasks") as response:
                assert (response.status, (await response.json())["items"]) == (200, [])
    for name in ("token", "damad.sock"):
        assert (site.state_dir / name).stat().st_mode & 0o777 == 0o600
    assert await daemon.stop() == 0


async def test_serve_brings_the_schema_up_to_date_unless_it_is_told_not_to(site: Site, empty: str) -> None:
    daemon = Daemon(site)
    await daemon.start(DAMAD_PG_ENV_LOCAL_DSN=empty, DAMAD_AUTO_MIGRATE="false")
    assert await count_of(empty, TABLES) == 0
    assert await daemon.stop() == 0
    await daemon.start(DAMAD_PG_ENV_LOCAL_DSN=empty)
    assert await count_of(empty, TABLES) > 0
    assert await daemon.stop() == 0


async def test_the_command_line_goes_before_the_environment_and_that_before_the_file(
    site: Site, tmp_path: Path
) -> None:
    elsewhere, flagged = tmp_path / "elsewhere", tmp_path / "flagged"
    for folder, name in ((elsewhere, "e.py"), (flagged, "f.py")):
        folder.mkdir()
        (folder / name).write_text("def main():\n    return {}\n")
    (site.folder / "damad.toml").write_text(f'worker_roots = ["{elsewhere}"]\n[queue.filed]\nretry_limit = 9\n')
    del site.environment["DAMAD_WORKER_ROOTS"]
    from_file = await site.damad("queue", "e.py", "--queue", "filed", "--json")
    assert from_file.code == 0, from_file
    assert (await site.state(from_file.json["etl_context_id"])).settings["retry_limit"] == 9
    from_environment = await site.damad("queue", "e.py", DAMAD_WORKER_ROOTS=str(flagged))
    assert from_environment.code == 2
    daemon = Daemon(site)
    await daemon.start("--workers", str(flagged), "--state-dir", str(tmp_path / "other"))
    assert str(tmp_path / "other" / "damad.sock") in daemon.ready
    assert await daemon.stop() == 0


async def test_a_port_that_is_taken_stops_the_start_with_one_line(site: Site) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = await site.damad("serve", "--port", port)
    assert (done.code, done.out) == (2, "")
    assert port in done.err.splitlines()[-1]
    assert "Traceback" not in done.err


@pytest_asyncio.fixture
async def alone(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """A site for which a daemon would start an embedded Postgres."""
    site = Site(tmp_path_factory.mktemp("alone"), {})
    site.state_dir.mkdir(mode=0o700)
    yield site
    await site.close()


@pytest.mark.parametrize(
    ("name", "content", "mode", "says"),
    [
        ("token", "", 0o600, "token"),
        ("token", "secret\n", 0o644, "token"),
        ("dama_host_id", "garbage\n", 0o600, "dama_host_id"),
        ("damad.sock", "no socket", 0o600, "damad.sock"),
    ],
)
async def test_a_wrong_file_in_the_state_folder_stops_the_start_before_postgres_starts(
    alone: Site, name: str, content: str, mode: int, says: str
) -> None:
    (alone.state_dir / name).write_text(content)
    (alone.state_dir / name).chmod(mode)
    await stopped_before_postgres(alone, says)


async def test_a_wrong_address_stops_the_start_before_postgres_starts(alone: Site) -> None:
    await stopped_before_postgres(alone, "host 999.1.1.1", DAMAD_HOST="999.1.1.1")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        await stopped_before_postgres(alone, f"port {port}", port=port)
    await stopped_before_postgres(alone, "tls_cert and tls_key", DAMAD_HOST="0.0.0.0")
    await stopped_before_postgres(alone, "nowhere.pem", DAMAD_TLS_CERT="nowhere.pem")


@pytest.mark.parametrize("words", [["tasks"], ["queue", "hold.py"], ["run", "hold.py"], ["migrate"]])
async def test_a_host_id_that_is_none_stops_every_command_before_postgres_starts(alone: Site, words: list[str]) -> None:
    (alone.state_dir / "dama_host_id").write_text("garbage\n")
    await stopped_before_postgres(alone, "dama_host_id", *words)


async def stopped_before_postgres(site: Site, says: str, *words: str, port: str = "0", **environment: str) -> None:
    done = await site.damad(*(words or ("serve", "--port", port)), **environment)
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1), done
    assert says in done.err
    assert not (site.state_dir / "postgres").exists()


async def test_serve_may_serve_one_pg_env_of_several(site: Site, empty: str) -> None:
    daemon = Daemon(site)
    await daemon.start("--pg-env", "local", DAMAD_PG_ENV_OTHER_DSN=empty)
    assert await count_of(empty, TABLES) == 0
    assert (await site.run("def main():\n    return {}\n")).state == "done"
    assert await daemon.stop() == 0

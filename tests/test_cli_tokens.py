"""damad tokens: list, add, revoke; what they change counts for a daemon that runs."""

from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio
from daemon_support import PG_ENV, Site, daemon_on, site_of


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def site(template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with site_of(tmp_path_factory.mktemp("tokens"), template) as site:
        yield site


async def status(url: str, token: str) -> int:
    headers = {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession(headers=headers) as client, client.get(f"{url}/v1/{PG_ENV}/tasks") as response:
        return response.status


async def test_a_token_is_shown_once_and_then_only_its_name_and_what_it_may(site: Site) -> None:
    added = await site.damad("tokens", "add", "front", "--role", "write", "--pg-env", PG_ENV)
    assert (added.code, added.err) == (0, "")
    made = added.out.strip()
    assert made.startswith("damad_") and len(made) > 40
    listed = await site.damad("tokens")
    assert [line.split()[:3] for line in listed.out.splitlines()[1:]] == [["front", "write", PG_ENV]]
    as_json = (await site.damad("tokens", "--json")).json
    assert [(token["name"], token["role"], token["pg_env"]) for token in as_json] == [("front", "write", PG_ENV)]
    assert made not in listed.out and "hash" not in as_json[0]
    assert (await site.damad("tokens", "revoke", "front")).code == 0
    assert (await site.damad("tokens", "--json")).json == []


async def test_a_daemon_takes_what_is_added_and_refuses_what_is_revoked_at_once(site: Site) -> None:
    async with daemon_on(site) as daemon:
        added = (await site.damad("tokens", "add", "ci", "--json")).json
        assert (added["name"], added["role"], added["pg_env"]) == ("ci", "read", None)
        assert await status(daemon.url, added["token"]) == 200
        assert (await site.damad("tokens", "revoke", "ci")).code == 0
        assert await status(daemon.url, added["token"]) == 401
        assert await status(daemon.url, (site.state_dir / "token").read_text().strip()) == 200


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["add", "CI"], "no name for a token"),
        (["add", "ci", "--role", "root"], "none of read, write, admin"),
        (["add", "ci", "--pg-env", "elsewhere"], "no pg_env 'elsewhere'"),
        (["add"], "name"),
        (["revoke", "nobody"], "no token 'nobody'"),
    ],
)
async def test_what_does_not_fit_is_refused_with_one_line(site: Site, words: list[str], reason: str) -> None:
    done = await site.damad("tokens", *words)
    assert (done.code, done.out) == (2, "")
    assert reason in done.err.lower() and len(done.err.splitlines()) == 1

"""Rules of the configuration by which the daemon itself archives what has ended."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from daemon_support import Site, daemon_on, site_of, until

from damad import config
from damad.errors import ConfigError, InvalidInput
from damad.model import retention
from damad.model.retention import Rule

RULE = {
    "DAMAD_RETENTION_OLD_STATE": "cancelled",
    "DAMAD_RETENTION_OLD_QUEUE": "heavy",
    "DAMAD_RETENTION_OLD_OLDER_THAN": "0s",
}


def test_a_rule_is_read_from_the_environment_and_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("damad.toml").write_text('[retention.rest]\nolder_than = "1d"\nstate = "done,failed"\n')
    found = config.load(environ={"HOME": "/nowhere", **RULE, "DAMAD_RETENTION_REST_OLDER_THAN": "2d"}).retention
    assert found == {
        "old": Rule(older_than=0.0, states=("cancelled",), queue="heavy"),
        "rest": Rule(older_than=172800.0, states=("done", "failed")),
    }


def test_there_is_no_rule_unless_one_is_given() -> None:
    assert config.load(environ={"HOME": "/nowhere"}).retention == {}


@pytest.mark.parametrize(
    ("given", "pointer"),
    [({}, "/older_than"), ({"older_than": "soon"}, "/older_than"), ({"older_than": -1}, "/older_than"),
     ({"older_than": "1d", "state": "queued"}, "/state"), ({"older_than": "1d", "state": ""}, "/state"),
     ({"older_than": "1d", "state": ["done"]}, "/state"), ({"older_than": "1d", "queue": "No Queue"}, "/queue"),
     ({"older_than": "1d", "queue": 7}, "/queue")],
)  # fmt: skip
def test_a_rule_that_does_not_fit_is_refused_and_says_where(given: dict[str, Any], pointer: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        retention.parse_rule(given)
    assert refused.value.pointer == pointer


@pytest.mark.parametrize("setting", ["STATE=queued", "OLDER_THAN=soon", "QUEUE=No"])
def test_a_wrong_setting_of_a_rule_is_named_with_where_it_was_set(setting: str) -> None:
    name, value = setting.split("=")
    variable = f"DAMAD_RETENTION_OLD_{name}"
    with pytest.raises(ConfigError, match=f"^{variable}: {name.lower()}: "):
        config.load(environ={"HOME": "/nowhere", "DAMAD_RETENTION_OLD_OLDER_THAN": "1d", variable: value})


@pytest_asyncio.fixture
async def site(template: str, tmp_path: Path) -> AsyncIterator[Site]:
    async with site_of(tmp_path, template) as site:
        yield site


async def test_the_daemon_archives_what_a_rule_says_and_leaves_the_rest(site: Site) -> None:
    site.environment |= RULE
    gone = [await site.queue("hold.py", queue="heavy") for _ in range(2)]
    kept = [await site.queue("hold.py"), await site.queue("hold.py", queue="light", start_after="1h")]
    for id_ in (*gone, kept[0]):
        await site.cancel(id_)  # the last of them has the newest event, and would stay for that

    async def only_the_others_are_there() -> bool:
        return {state.etl_context_id for state in await site.store().tasks(limit=10)} == {*kept}

    async with daemon_on(site) as daemon:
        await until(only_the_others_are_there)
        await until(lambda: "archived" in daemon.log)
    (file,) = (site.state_dir / "archive").iterdir()
    assert (await site.damad("archive", "--import", str(file), "--json")).json["restored_contexts"] == 2
    await site.verified()


async def test_what_stands_in_the_way_is_said_and_stops_no_daemon(site: Site) -> None:
    site.environment |= RULE
    await site.cancel(await site.queue("hold.py", queue="heavy"))
    other = await site.queue("hold.py", start_after="1h")
    site.state_dir.mkdir(mode=0o700, exist_ok=True)
    (site.state_dir / "archive").write_text("no folder")
    async with daemon_on(site) as daemon:
        await until(lambda: "nothing was archived" in daemon.log)
        assert len(await site.store().tasks(limit=10)) == 2
        await site.cancel(other)

"""Configuration: command line > environment > ./damad.toml > /etc/damad/damad.toml > defaults (contract, section 7)."""

from pathlib import Path
from typing import Any

import pytest

from damad import config
from damad.config import Config, Queue, load
from damad.errors import ConfigError

HOME = {"HOME": "/home/somebody"}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder; /etc/damad/damad.toml is a file beside it."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(config, "SYSTEM_FILE", tmp_path / "etc.toml")
    return here


def local(text: str) -> None:
    Path("damad.toml").write_text(text)


def system(text: str) -> None:
    config.SYSTEM_FILE.write_text(text)


def loaded(given: dict[str, Any] | None = None, **environ: str) -> Config:
    return load(given, environ={**HOME, **environ})


def test_with_nothing_configured_the_defaults_are_those_of_the_contract(folder: Path) -> None:
    found = loaded()
    assert found == Config(
        state_dir=Path("/home/somebody/.local/state/damad"),
        host="127.0.0.1",
        port=8420,
        worker_roots=(folder / "workers",),
        lease=30.0,
        grace=10.0,
        poll_interval=5.0,
        wait_in_process=5.0,
        max_body=10_000_000,
        body_timeout=30.0,
        log_limit=64_000_000,
        auto_migrate=True,
        fork_server=True,
        group_appends=True,
        pg_envs={},
        queues={},
    )
    assert found.embedded
    assert found.queue("any") == Queue(concurrency=4, run_in="process", shared=False, defaults={})


def test_each_layer_wins_over_those_below_it() -> None:
    system("port = 1\nhost = 'h1'\ngrace = '1s'\nlease = '1s'\npoll_interval = 1")
    local("port = 2\nhost = 'h2'\ngrace = '2s'\nlease = '2s'")
    found = loaded({"port": 4, "host": None}, DAMAD_PORT="3", DAMAD_HOST="h3", DAMAD_GRACE="3s")
    assert (found.port, found.host, found.grace, found.lease, found.poll_interval) == (4, "h3", 3.0, 2.0, 1.0)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("host", "::1", "::1"),
        ("port", "0", 0),
        ("lease", "1m", 60.0),
        ("grace", "250ms", 0.25),
        ("poll_interval", "2", 2.0),
        ("wait_in_process", "0", 0.0),
        ("max_body", "512kB", 512_000),
        ("body_timeout", "1.5s", 1.5),
        ("log_limit", "1GB", 1_000_000_000),
        ("auto_migrate", "false", False),
        ("auto_migrate", "1", True),
        ("fork_server", "false", False),
        ("state_dir", "/var/lib/x", Path("/var/lib/x")),
        ("worker_roots", "/a:/b", (Path("/a"), Path("/b"))),
    ],
)
def test_every_setting_has_a_variable_and_a_flag(name: str, text: str, value: Any) -> None:
    assert getattr(loaded(**{f"DAMAD_{name.upper()}": text}), name) == value
    flag = text.split(":") if name == "worker_roots" else text
    assert getattr(loaded({name: flag}), name) == value


def test_a_file_takes_values_of_its_own_sorts(folder: Path) -> None:
    local("port = 0\nlease = 90\nmax_body = 5\nauto_migrate = false\nworker_roots = ['a', '/b']\nstate_dir = 'state'")
    found = loaded()
    assert (found.port, found.lease, found.max_body, found.auto_migrate) == (0, 90.0, 5, False)
    assert (found.worker_roots, found.state_dir) == ((folder / "a", Path("/b")), folder / "state")


@pytest.mark.parametrize(
    ("environ", "state_dir"),
    [
        ({"STATE_DIRECTORY": "/var/lib/damad"}, "/var/lib/damad"),
        ({"STATE_DIRECTORY": "/var/lib/damad:/var/lib/second"}, "/var/lib/damad"),
        ({"STATE_DIRECTORY": "/var/lib/damad", "XDG_STATE_HOME": "/xdg"}, "/var/lib/damad"),
        ({"XDG_STATE_HOME": "/xdg"}, "/xdg/damad"),
        ({"XDG_STATE_HOME": ""}, "/home/somebody/.local/state/damad"),
        ({"XDG_STATE_HOME": "relative"}, "/home/somebody/.local/state/damad"),
        ({"STATE_DIRECTORY": "/var/lib/damad", "DAMAD_STATE_DIR": "/mine"}, "/mine"),
    ],
)
def test_the_state_folder_is_systemds_or_the_xdg_one(environ: dict[str, str], state_dir: str) -> None:
    assert loaded(**environ).state_dir == Path(state_dir)


WRONG = [
    ("host", ""),
    ("state_dir", ""),
    ("state_dir", "~nobody-of-that-name/state"),
    ("port", ""),
    ("port", "many"),
    ("port", "65536"),
    ("port", "-1"),
    ("port", "1.5"),
    ("lease", "soon"),
    ("lease", "0"),
    ("grace", "-1s"),
    ("poll_interval", "1ms"),
    ("wait_in_process", "x"),
    ("max_body", "big"),
    ("max_body", "0"),
    ("body_timeout", "0"),
    ("log_limit", "-1"),
    pytest.param("log_limit", "9" * 5000, id="log_limit-of-5000-digits"),
    ("auto_migrate", "maybe"),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_wrong_setting_names_itself_and_where_it_was_set_in_one_line(name: str, value: str) -> None:
    variable = f"DAMAD_{name.upper()}"
    with pytest.raises(ConfigError) as refused:
        loaded(**{variable: value})
    assert refused.value.exit_code == 2
    assert variable in str(refused.value) and name in str(refused.value) and "\n" not in str(refused.value)
    with pytest.raises(ConfigError, match=f"command line.*{name}"):
        loaded({name: value})
    local(f"{name} = {value!r}")
    with pytest.raises(ConfigError, match=rf"damad\.toml.*{name}"):
        loaded()


@pytest.mark.parametrize(
    "text",
    [
        "worker_roots = 'workers'",
        "worker_roots = []",
        "worker_roots = [1]",
        "host = 7",
        r"host = 'a\u0000b'".replace("'", '"'),
        r"state_dir = 'a\u0000b'".replace("'", '"'),
        r"worker_roots = ['a', 'b\u0000']".replace("'", '"'),
        "log_limit = 9223372036854775808",
        "state_dir = true",
        "port = true",
        "port = '1 2'",
        "lease = nan",
        "lease = true",
        "max_body = 1.5",
        "auto_migrate = 7",
        "auto_migrate = 'maybe'",
    ],
)
def test_a_value_of_a_wrong_sort_in_a_file_names_its_setting(text: str) -> None:
    local(text)
    with pytest.raises(ConfigError, match=text.split()[0]):
        loaded()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("prot = 1", "prot"),
        ("[pg_env.main]\ndns = 'x'", "dns"),
        ("[queue.gpu]\nconcurency = 1", "concurency"),
        ("[queue.gpu]\nworker = 'x'", "worker"),
        ("[queue.gpu]\nidempotency_key = 'x'", "idempotency_key"),
        ("[nonsense]\na = 1", "nonsense"),
        ("pg_env = 1", "pg_env"),
        ("queue = ['a']", "queue"),
        ("[queue]\ngpu = 1", "queue"),
        ("port = ", "damad.toml"),
        ("port = 1\nport = 2", "damad.toml"),
        pytest.param("port = " + "9" * 5000, "damad.toml", id="5000-digits"),
        pytest.param("port = " + "[" * 5000 + "]" * 5000, "damad.toml", id="5000-deep"),
        ('[queue."a\\nb"]\nconcurrency = 1', r"a\\nb"),
        ('[queue."a\\nb"]\nnonsense = 1', "nonsense"),
        ('[pg_env."a\\nb"]\ndsn = "postgresql://x"', r"a\\nb"),
        ('[pg_env.main]\ndsn_file = "a\\u0000b"', "dsn_file"),
        ("[pg_env.main]\ndsn = 7", "dsn"),
        ("[queue.gpu]\nrun_in = ['daemon']", "run_in"),
        ("[queue.gpu]\npreload = 7", "preload"),
        ("[queue.gpu]\npreload = ['os', 'no module']", "preload"),
        ("[queue.gpu]\npreload = '-c'", "preload"),
        ("[queue.gpu]\nconcurrency = 2147483648", "concurrency"),
        ("[queue.gpu]\nstart_after = 2026-01-31T08:00:00Z", "start_after"),
    ],
)
def test_what_a_file_should_not_hold_is_named_in_one_line(text: str, named: str) -> None:
    local(text)
    with pytest.raises(ConfigError, match=named) as refused:
        loaded()
    assert "damad.toml" in str(refused.value) and "\n" not in str(refused.value)


def test_a_file_that_is_no_text_or_cannot_be_read_is_named(folder: Path) -> None:
    Path("damad.toml").write_bytes(b"host = '\xff'")
    with pytest.raises(ConfigError, match=r"damad\.toml"):
        loaded()
    Path("damad.toml").unlink()
    Path("damad.toml").mkdir()
    with pytest.raises(ConfigError, match=r"damad\.toml"):
        loaded()


def test_unknown_variables_are_ignored() -> None:
    assert (
        loaded(
            DAMAD_PROT="1",
            DAMAD_QUEUE_GPU_SIZE="7",
            DAMAD_QUEUE_CONCURRENCY="7",
            DAMAD_PG_ENV_DSN="postgresql://x",
            DAMAD_PG_ENV_MAIN="postgresql://x",
            DAMAD_="x",
            damad_port="1",
            NOTDAMAD_PORT="1",
        )
        == loaded()
    )


def test_a_pg_env_is_named_in_the_environment_in_capitals() -> None:
    found = loaded(DAMAD_PG_ENV_MAIN_DSN="postgresql://a/x", DAMAD_PG_ENV_DEV_2_DSN="postgres://b/y")
    assert found.pg_envs == {"main": "postgresql://a/x", "dev_2": "postgres://b/y"}
    assert not found.embedded


def test_pg_envs_of_all_layers_are_there_and_the_higher_one_wins() -> None:
    system("[pg_env.one]\ndsn = 'postgresql://etc/1'\n[pg_env.two]\ndsn = 'postgresql://etc/2'")
    local("[pg_env.two]\ndsn = 'postgresql://file/2'\n[pg_env.three]\ndsn = 'postgresql://file/3'")
    assert loaded(DAMAD_PG_ENV_THREE_DSN="postgresql://env/3").pg_envs == {
        "one": "postgresql://etc/1",
        "two": "postgresql://file/2",
        "three": "postgresql://env/3",
    }


def test_a_dsn_may_lie_in_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("postgresql://in/the_file\n")
    local(f"[pg_env.main]\ndsn_file = '{secret}'")
    assert loaded().pg_envs == {"main": "postgresql://in/the_file"}
    assert loaded(DAMAD_PG_ENV_OTHER_DSN_FILE=str(secret)).pg_envs["other"] == "postgresql://in/the_file"


def test_a_dsn_and_a_dsn_file_are_one_setting_and_the_higher_layer_wins(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("postgresql://in/the_file")
    local("[pg_env.main]\ndsn = 'postgresql://in/toml'")
    assert loaded(DAMAD_PG_ENV_MAIN_DSN_FILE=str(secret)).pg_envs == {"main": "postgresql://in/the_file"}
    local(f"[pg_env.main]\ndsn_file = '{secret}'")
    assert loaded(DAMAD_PG_ENV_MAIN_DSN="postgresql://in/env").pg_envs == {"main": "postgresql://in/env"}


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("DAMAD_PG_ENV_MAIN_DSN", "host=x dbname=y"),
        ("DAMAD_PG_ENV_MAIN_DSN", ""),
        ("DAMAD_PG_ENV_MAIN_DSN", "mysql://x"),
        ("DAMAD_PG_ENV_MAIN_DSN_FILE", "/nowhere/at/all"),
        ("DAMAD_PG_ENV_MAIN_DSN_FILE", "~nobody-of-that-name/dsn"),
        ("DAMAD_PG_ENV_MAIN_DSN_FILE", "/"),
        ("DAMAD_PG_ENV_1ST_DSN", "postgresql://x"),
        ("DAMAD_PG_ENV_A-B_DSN", "postgresql://x"),
        ("DAMAD_QUEUE_1ST_CONCURRENCY", "1"),
        ("DAMAD_QUEUE_GPU_CONCURRENCY", "many"),
        ("DAMAD_QUEUE_GPU_CONCURRENCY", "-1"),
        ("DAMAD_QUEUE_GPU_RUN_IN", "thread"),
        ("DAMAD_QUEUE_GPU_SHARED", "perhaps"),
        ("DAMAD_QUEUE_GPU_PRIORITY", "high"),
        ("DAMAD_QUEUE_GPU_RETRY_DELAY", "soon"),
    ],
)
def test_a_wrong_pg_env_or_queue_names_its_variable(variable: str, value: str) -> None:
    with pytest.raises(ConfigError, match=variable) as refused:
        loaded(**{variable: value})
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("port", "abc", "port: 'abc' is no whole number"),
        ("auto_migrate", "maybe", "auto_migrate: 'maybe' is neither true nor false"),
        ("queue_gpu_concurrency", "many", "concurrency: 'many' is no whole number"),
        ("queue_gpu_retry_limit", "many", "retry_limit 'many' is no whole number"),
    ],
)
def test_a_wrong_value_is_told_in_words_what_is_wanted(name: str, value: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        loaded(**{f"DAMAD_{name.upper()}": value})


def test_a_dsn_and_a_dsn_file_at_the_same_place_are_one_too_many() -> None:
    local("[pg_env.main]\ndsn = 'postgresql://x'\ndsn_file = 'secret'")
    with pytest.raises(ConfigError, match=r"damad\.toml.* both dsn and dsn_file"):
        loaded()
    local("")
    with pytest.raises(ConfigError, match=r"DAMAD_PG_ENV_MAIN_DSN: .*'main' has both dsn and dsn_file"):
        loaded(DAMAD_PG_ENV_MAIN_DSN="postgresql://x", DAMAD_PG_ENV_MAIN_DSN_FILE="secret")


def test_a_pg_env_without_a_dsn_is_named() -> None:
    local("[pg_env.main]")
    with pytest.raises(ConfigError, match="main"):
        loaded()


def test_a_refusal_shows_no_password() -> None:
    with pytest.raises(ConfigError) as refused:
        loaded(DAMAD_PG_ENV_MAIN_DSN="postgressql://me:secret@x/y")
    assert "secret" not in str(refused.value)


def test_a_queue_has_slots_a_place_to_run_and_defaults_for_its_tasks() -> None:
    local("[queue.gpu]\nconcurrency = 1\nrun_in = 'daemon'\nshared = true\nretry_limit = 0\nexpire_in = '2h'")
    assert loaded().queue("gpu") == Queue(
        concurrency=1, run_in="daemon", shared=True, defaults={"retry_limit": 0, "expire_in": 7200.0}
    )


def test_the_longest_setting_name_at_the_end_of_a_variable_wins() -> None:
    found = loaded(
        DAMAD_QUEUE_GPU_RETRY_DELAY_MAX="10m",
        DAMAD_QUEUE_GPU_RETRY_DELAY="1s",
        DAMAD_QUEUE_MY_LONG_NAME_RETRY_LIMIT="7",
        DAMAD_QUEUE_RUN_IN_RUN_IN="daemon",
        DAMAD_QUEUE_GPU_CONCURRENCY="2",
        DAMAD_QUEUE_GPU_PRELOAD="numpy:os.path",
    )
    assert found.queues == {
        "gpu": Queue(
            concurrency=2, preload=("numpy", "os.path"), defaults={"retry_delay_max": 600.0, "retry_delay": 1.0}
        ),
        "my_long_name": Queue(defaults={"retry_limit": 7}),
        "run_in": Queue(run_in="daemon"),
    }


def test_the_settings_of_a_queue_come_each_from_its_highest_layer() -> None:
    system("[queue.gpu]\nconcurrency = 1\npriority = 1\nretry_limit = 1")
    local("[queue.gpu]\npriority = 2\nretry_limit = 2")
    assert loaded(DAMAD_QUEUE_GPU_RETRY_LIMIT="3").queue("gpu") == Queue(
        concurrency=1, defaults={"priority": 2, "retry_limit": 3}
    )


def test_workers_get_the_environment_without_damads_variables_and_credentials() -> None:
    kept = {
        "PATH": "/bin",
        "HOME": "/home/somebody",
        "PGHOST": "x",
        "MY_DAMAD_X": "1",
        "URL": "postgresql://me@host/db",
    }
    dropped = {
        "DAMAD_TOKEN": "x",
        "DAMAD_PG_ENV_MAIN_DSN": "x",
        "PGPASSWORD": "x",
        "PGPASSFILE": "x",
        "PGSSLPASSWORD": "x",
        "POSTGRES_PASSWORD": "x",
        "DATABASE_URL": "postgresql://me:secret@host/db",
        "OTHER_URL": "postgres://host/db?user=me&password=secret",
        "NOTIFY_SOCKET": "x",
        "LISTEN_FDS": "3",
        "CREDENTIALS_DIRECTORY": "x",
    }
    assert config.child_environment({**kept, **dropped}) == kept


def test_a_damad_that_a_file_tells_all_is_told_nothing_by_the_environment() -> None:
    environ = {"PATH": "/bin", "PGPASSWORD": "secret", "DAMAD_POLL_INTERVAL": "1s", "DAMAD_PG_ENV_OTHER_DSN": "x"}
    assert config.own_environment(environ) == {"PATH": "/bin", "PGPASSWORD": "secret"}


def test_the_configuration_is_never_changed() -> None:
    with pytest.raises(AttributeError):
        loaded().port = 1  # type: ignore[misc]

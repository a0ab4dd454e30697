"""The configuration: one frozen Struct, and the only reader of the environment and of configuration files.

Precedence: command line > environment (`DAMAD_` + the setting in capitals) > `damad.toml` in the working folder >
`/etc/damad/damad.toml` > defaults. Unknown DAMAD_ variables are ignored; an unknown setting in a file is an error,
because there it is a typing mistake.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

import msgspec

from damad import stderrlog, units
from damad.errors import ConfigError, InvalidInput
from damad.model import settings, trace
from damad.model.queue import MOST_SLOTS, TASK_SETTINGS, StoredQueue
from damad.model.retention import RULE_SETTINGS, Rule, parse_rule

SYSTEM_FILE: Final = Path("/etc/damad/damad.toml")
LOCAL_FILE: Final = Path("damad.toml")
EMBEDDED: Final = "local"
"""The pg_env of the embedded server, which damad starts where no DSN is configured."""


class Queue(msgspec.Struct, frozen=True, kw_only=True):
    """How a queue runs. A queue that no one configured is one with all defaults.

    preload: modules that are imported once, for the processes of all its tasks.
    """

    concurrency: int = 4
    run_in: str = "process"
    shared: bool = False
    preload: tuple[str, ...] = ()
    defaults: dict[str, Any] = {}

    def under(self, stored: StoredQueue | None) -> Self:
        """How the queue runs on this host where this is set for it in the database: what is set there wins."""
        if stored is None:
            return self
        set_ = {name: getattr(stored, name) for name in ("concurrency", "run_in", "shared")}
        set_ = {name: value for name, value in set_.items() if value is not None}
        return msgspec.structs.replace(self, **set_, defaults={**self.defaults, **stored.settings})


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Every setting of damad. Durations are in seconds, sizes in bytes. `pg_envs` maps a name to its DSN."""

    state_dir: Path
    host: str = "127.0.0.1"
    port: int = 8420
    host_names: tuple[str, ...] = ()
    tls_cert: Path | None = None
    tls_key: Path | None = None
    worker_roots: tuple[Path, ...] = (Path("workers"),)
    lease: float = 30.0
    grace: float = 10.0
    poll_interval: float = 5.0
    wait_in_process: float = 5.0
    max_body: int = 10_000_000
    body_timeout: float = 30.0
    max_connections: int = 1000
    request_rate: tuple[int, float] | None = None
    log_limit: int = 64_000_000
    log_format: str = stderrlog.TEXT
    otel: bool = False
    auto_migrate: bool = True
    fork_server: bool = True
    group_appends: bool = True
    compat_open: tuple[str, ...] = ()
    pg_envs: dict[str, str] = {}
    queues: dict[str, Queue] = {}
    retention: dict[str, Rule] = {}

    @property
    def embedded(self) -> bool:
        """True where no DSN is configured, so that damad brings a Postgres of its own."""
        return not self.pg_envs

    def queue(self, name: str) -> Queue:
        """The configuration of a queue, also of one that no one configured."""
        return self.queues.get(name) or Queue()


_DURATIONS: Final = ("lease", "grace", "poll_interval", "wait_in_process", "body_timeout")
_SIZES: Final = ("max_body", "log_limit")
_SWITCHES: Final = ("auto_migrate", "fork_server", "group_appends", "otel")
_LISTS: Final = {"worker_roots": ":", "compat_open": ",", "host_names": ","}
"""Those that are lists, and what stands between their parts in the environment."""
_SIMPLE: Final = frozenset(Config.__struct_fields__) - {"pg_envs", "queues", "retention"}
"""Those that are one value and no table of names."""
_CREDENTIALS: Final = frozenset({
    "PGPASSWORD", "PGPASSFILE", "PGSERVICE", "PGSERVICEFILE", "PGSSLKEY", "PGSSLPASSWORD", "POSTGRES_PASSWORD",
    "POSTGRES_PASSWORD_FILE",
})  # fmt: skip
_DAEMONS_OWN: Final = frozenset({
    "CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_USEC",
    "WATCHDOG_PID", "MAINPID", "TRACEPARENT", "TRACESTATE",
})  # fmt: skip
_URL_WITH_PASSWORD = re.compile(r"postgres(?:ql)?://[^/@\s]*:[^/@\s]+@|postgres(?:ql)?://\S*[?&]password=")
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_QUEUE_OWN: Final = ("concurrency", "run_in", "shared", "preload")
_QUEUE: Final = (*_QUEUE_OWN, *sorted(TASK_SETTINGS))
_TABLES: Final = {"pg_env": ("dsn", "dsn_file"), "queue": _QUEUE, "retention": RULE_SETTINGS}
"""Those that are a table for each name, and what may stand in it."""


def load(given: Mapping[str, Any] | None = None, *, environ: Mapping[str, str] | None = None) -> Config:
    """The configuration as it stands. `given` is what the command line said; None there means not said.

    Raises ConfigError, with one line that names the setting and where it was set.
    """
    environ = os.environ if environ is None else environ
    layers = [_read_file(SYSTEM_FILE), _read_file(LOCAL_FILE), _read_environment(environ)]
    layers.append(
        {name: _Sourced(value, "the command line") for name, value in (given or {}).items() if value is not None}
    )
    merged: dict[str, Any] = {}
    for layer in layers:
        for name, value in layer.items():
            if name in _TABLES:
                for key, table in value.items():
                    known = merged.setdefault(name, {}).setdefault(key, {})
                    if name == "pg_env":
                        known.clear()  # dsn and dsn_file are one setting, said in two ways
                    known.update(table)
            else:
                merged[name] = value
    merged.setdefault("state_dir", _Sourced(str(_default_state_dir(environ)), "the default"))
    merged.setdefault("worker_roots", _Sourced(["workers"], "the default"))
    return _build(merged)


def child_environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for workers: this one less every DAMAD_ variable, what systemd tells the daemon alone, and
    every credential of Postgres: by its name, or for a URL that holds a password. A task has a trace of its own."""
    environ = os.environ if environ is None else environ
    return {
        name: value
        for name, value in environ.items()
        if not (name.startswith("DAMAD_") or name in _DAEMONS_OWN or _is_credential(name, value))
    }


def _is_credential(name: str, value: str) -> bool:
    return name in _CREDENTIALS or bool(_URL_WITH_PASSWORD.match(value))


def traceparent(environ: Mapping[str, str] | None = None) -> str | None:
    """The trace that whoever started this process says that it belongs to."""
    return trace.parse((os.environ if environ is None else environ).get(trace.KEY.upper()))


def notify_socket(environ: Mapping[str, str] | None = None) -> str | None:
    """The socket on which systemd waits to hear from a service, or None outside of systemd."""
    return (os.environ if environ is None else environ).get("NOTIFY_SOCKET")


class _Sourced(msgspec.Struct, frozen=True):
    """A value as it was given, and where."""

    value: Any
    source: str


def _default_state_dir(environ: Mapping[str, str]) -> Path:
    if under_systemd := environ.get("STATE_DIRECTORY"):
        return Path(under_systemd.split(":")[0])
    home = environ.get("XDG_STATE_HOME")
    if home and Path(home).is_absolute():  # the XDG specification wants a relative one ignored
        return Path(home) / "damad"
    return Path(environ.get("HOME") or Path.home()) / ".local" / "state" / "damad"


def _read_file(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = tomllib.load(file)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, RecursionError) as error:  # also for integers of thousands of digits
        raise ConfigError(f"{path}: {error}") from None
    layer: dict[str, Any] = {}
    for name, value in content.items():
        if name in _TABLES:
            layer[name] = _read_tables(name, value, path)
        elif name in _SIMPLE:
            layer[name] = _Sourced(value, str(path))
        else:
            raise ConfigError(f"{path}: there is no setting {name!r}")
    return layer


def _read_tables(kind: str, tables: Any, path: Path) -> dict[str, dict[str, Any]]:
    allowed = _TABLES[kind]
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise ConfigError(f"{path}: {kind} is a table for each name, like [{kind}.NAME]")
    for key, table in tables.items():
        for name in table:
            if name not in allowed:
                raise ConfigError(f"{path}: there is no setting {name!r} in {_section(kind, key)}")
    return {
        key: {name: _Sourced(value, f"{path} {_section(kind, key)}") for name, value in table.items()}
        for key, table in tables.items()
    }


def _section(kind: str, key: str) -> str:
    return f"[{kind}.{key if settings.is_name(key) else repr(key)}]"


def _read_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    layer: dict[str, Any] = {}
    for variable, text in environ.items():
        if not variable.startswith("DAMAD_"):
            continue
        name = variable.removeprefix("DAMAD_").lower()
        if name in _SIMPLE:
            separator = _LISTS.get(name)
            layer[name] = _Sourced(text.split(separator) if separator else text, variable)
        for kind, allowed in _TABLES.items():
            for setting in sorted(allowed, key=len, reverse=True):
                if name.startswith(f"{kind}_") and name.endswith(f"_{setting}"):
                    key = name[len(kind) + 1 : -len(setting) - 1]
                    if key:
                        layer.setdefault(kind, {}).setdefault(key, {})[setting] = _Sourced(text, variable)
                        break
    return layer


def _build(merged: dict[str, Any]) -> Config:
    plain: dict[str, Any] = {}
    for name, sourced in merged.items():
        if name not in _TABLES:
            plain[name] = _converted(name, sourced)
    if "tls_key" in plain and "tls_cert" not in plain:
        raise ConfigError(f"{merged['tls_key'].source}: tls_key is set, and tls_cert is not")
    plain["pg_envs"] = {name: _dsn(name, table) for name, table in merged.get("pg_env", {}).items()}
    plain["queues"] = {name: _queue(name, table) for name, table in merged.get("queue", {}).items()}
    plain["retention"] = {name: _rule(name, table) for name, table in merged.get("retention", {}).items()}
    return Config(**plain)


def _converted(name: str, sourced: _Sourced) -> Any:
    value = sourced.value
    try:
        if name in _DURATIONS:
            value = units.duration(value)
        elif name in _SIZES:
            value = units.size(value)
        elif name in ("port", "max_connections"):
            value = units.whole_number(value)
        elif name in _SWITCHES:
            value = units.yes_or_no(value)
        elif name == "request_rate":
            value = units.rate(value)
        elif name == "worker_roots":
            value = tuple(Path(units.text(root)).absolute() for root in units.a_list(value) if root != "")
        elif name == "compat_open":
            value = tuple(units.origin(part) for part in units.a_list(value) if part != "")
        elif name == "host_names":
            value = tuple(units.host_name(part) for part in units.a_list(value) if part != "")
        elif name in ("state_dir", "tls_cert", "tls_key"):
            value = Path(units.text(value)).expanduser().absolute()
        else:
            value = units.text(value)
    except (InvalidInput, RuntimeError) as error:  # RuntimeError: ~nobody has no home
        raise ConfigError(f"{sourced.source}: {name}: {error}") from None
    if name in ("host", "state_dir", "tls_cert", "tls_key") and not sourced.value:
        raise ConfigError(f"{sourced.source}: {name}: is empty")  # that would listen everywhere, or fill this folder
    _check(name, value, sourced.source)
    return value


def _check(name: str, value: Any, source: str) -> None:
    if name == "port" and not 0 <= value <= 65535:
        raise ConfigError(f"{source}: port: {value} is no port; 0 to 65535")
    if name in ("lease", "poll_interval", "body_timeout") and value < 0.1:
        raise ConfigError(f"{source}: {name}: {value} s is too short; at least 100ms")
    if name == "max_connections" and value < 1:
        raise ConfigError(f"{source}: max_connections: {value} is too few; at least 1")
    if name == "log_format" and value not in stderrlog.FORMATS:
        raise ConfigError(f"{source}: log_format: {value!r} is neither {' nor '.join(stderrlog.FORMATS)}")
    if name == "max_body" and value == 0:
        raise ConfigError(f"{source}: max_body: 0 bytes are no body; at least 1")
    if any("\0" in str(text) for text in (value if isinstance(value, tuple) else (value,))):
        raise ConfigError(f"{source}: {name}: holds NUL")
    if name == "worker_roots" and not value:
        raise ConfigError(f"{source}: worker_roots: at least one folder")


def _check_name(kind: str, name: str, table: Mapping[str, _Sourced]) -> None:
    if not settings.is_name(name):
        source = next(iter(table.values())).source if table else kind
        raise ConfigError(f"{source}: {name!r} is no name for a {kind}; a-z, then a-z 0-9 _")


def _dsn(name: str, table: dict[str, _Sourced]) -> str:
    _check_name("pg_env", name, table)
    if len(table) > 1:
        raise ConfigError(f"{table['dsn'].source}: pg_env {name!r} has both dsn and dsn_file; one of them is enough")
    chosen = table.get("dsn") or table.get("dsn_file")
    if chosen is None:
        raise ConfigError(f"pg_env {name!r} has neither dsn nor dsn_file")
    value = chosen.value
    if not isinstance(value, str):
        raise ConfigError(f"{chosen.source}: the dsn of pg_env {name!r} is no text")
    if "dsn" not in table:
        try:
            value = Path(value).expanduser().read_text(encoding="utf-8").strip()
        except (OSError, ValueError, RuntimeError) as error:  # NUL or bytes in it; ~nobody has no home
            raise ConfigError(f"{chosen.source}: dsn_file: {error}") from None
    if not value.startswith(("postgresql://", "postgres://")):
        raise ConfigError(f"{chosen.source}: the dsn of pg_env {name!r} does not begin with postgresql://")
    return value


def _queue(name: str, table: dict[str, _Sourced]) -> Queue:
    _check_name("queue", name, table)
    own: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    for setting, sourced in table.items():
        value = sourced.value
        try:
            if setting == "concurrency":
                own[setting] = units.whole_number(value)
            elif setting == "shared":
                own[setting] = units.yes_or_no(value)
            elif setting == "run_in":
                own[setting] = value
            elif setting == "preload":
                own[setting] = _modules(value)
            else:
                defaults |= settings.from_texts({setting: value}) if isinstance(value, str) else {setting: value}
            _check_queue(setting, own, defaults)
        except InvalidInput as error:
            raise ConfigError(f"{sourced.source}: {setting}: {error}") from None
    return Queue(**own, defaults=_without_worker(settings.parse({"worker": "-", **defaults})))


def _rule(name: str, table: dict[str, _Sourced]) -> Rule:
    _check_name("retention", name, table)
    try:
        return parse_rule({setting: sourced.value for setting, sourced in table.items()})
    except InvalidInput as error:
        setting = (error.pointer or "").lstrip("/")
        source = (table.get(setting) or next(iter(table.values()))).source if table else f"[retention.{name}]"
        raise ConfigError(f"{source}: {setting}: {error}") from None


def _modules(value: Any) -> tuple[str, ...]:
    names = value.split(":") if isinstance(value, str) else value
    if not (isinstance(names, list) and all(isinstance(name, str) and _MODULE.fullmatch(name) for name in names)):
        raise InvalidInput(f"{value!r} is no list of modules")
    return tuple(names)


def _without_worker(parsed: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in parsed.items() if name != "worker"}


def _check_queue(setting: str, own: dict[str, Any], defaults: dict[str, Any]) -> None:
    value: Any = own.get(setting)
    if setting == "concurrency" and not 0 <= value < MOST_SLOTS:
        raise InvalidInput(f"{value} is no number of slots")
    if setting == "run_in" and value not in ("process", "daemon"):
        raise InvalidInput(f"{value!r} is neither process nor daemon")
    settings.check_limits_hold(settings.parse({"worker": "-", **defaults}), own.get("run_in"))


def own_environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment less every DAMAD_ variable: for a damad that is told all by a file, as a bench starts one."""
    environ = os.environ if environ is None else environ
    return {name: value for name, value in environ.items() if not name.startswith("DAMAD_")}

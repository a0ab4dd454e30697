"""serve, migrate, systemd print: what the daemon is run with."""

from pathlib import Path
from typing import Any

from damad.cli.options import Json, Where


def serve(
    *,
    host: str | None = None,
    port: int | None = None,
    workers: Path | None = None,
    where: Where | None = None,
) -> int:
    """Run the daemon. With no pg_env configured it starts an embedded Postgres in the state folder.

    Parameters
    ----------
    host
        The address to listen on (127.0.0.1).
    port
        The port to listen on (8420); 0 picks a free one.
    workers
        The folder that workers lie in (./workers).
    """
    from damad import daemon
    from damad.cli import session

    where = where or Where()
    roots = None if workers is None else [str(workers)]
    settings = session.configuration(where, host=host, port=port, worker_roots=roots)
    daemon.main(session.narrowed(settings, where.pg_env))
    return 0


def migrate(*, json: Json = False, where: Where | None = None) -> int:
    """Make the schema, or bring an older one up to date, in every pg_env or in the one that is named."""
    from damad.cli import session

    return session.go(_migrate(json, where or Where()))


async def _migrate(json: bool, where: Where) -> int:
    from damad.cli import render, session
    from damad.eventstore.migrate import migrate as apply

    settings = session.configuration(where)
    names: list[str | None] = [where.pg_env] if where.pg_env else [*sorted(settings.pg_envs)] or [None]
    done: list[Any] = []
    for name in names:
        place = Where(pg_env=name, state_dir=where.state_dir)
        async with session.opened(place, settings, schema=False) as ambient:
            done.append(await apply(ambient.store.database))
    if json:
        render.as_json(done)
        return 0
    for migration in done:
        what = f"brought to schema {migration.after}" if migration.changed else f"is at schema {migration.after}"
        print(f"pg_env {migration.pg_env} {what}")
    return 0


def print_unit(*, user: str | None = None, folder: Path | None = None, where: Where | None = None) -> int:
    """Print a systemd unit that runs `damad serve` in a folder.

    Parameters
    ----------
    user
        The account to run as; without it the unit's manager decides.
    folder
        The working folder, where damad.toml and workers/ lie (this one).
    """
    from damad import systemd
    from damad.errors import InvalidInput

    where = where or Where()
    if folder is not None and not folder.is_dir():
        raise InvalidInput(f"--folder {str(folder)!r} is no folder")
    options = [] if where.state_dir is None else ["--state-dir", str(where.state_dir.absolute())]
    options += [] if where.pg_env is None else ["--pg-env", where.pg_env]
    print(systemd.unit(working_folder=(folder or Path.cwd()).absolute(), user=user, options=options), end="")
    return 0

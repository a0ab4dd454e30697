"""tokens: who may ask the daemon of this state folder over HTTP."""

from pathlib import Path
from typing import Any

from damad.cli.options import Json, Where


def listed(*, json: Json = False, where: Where | None = None) -> int:
    """List the tokens that have a name. What they are nobody can tell: only their hashes are kept."""
    from damad import tokens
    from damad.cli import render

    found = tokens.every(_state_dir(where))
    if json:
        render.as_json([_shown(token) for token in found])
    else:
        render.tokens(found)
    return 0


def add(name: str, /, *, role: str = "read", json: Json = False, where: Where | None = None) -> int:
    """Make a token and print it; it is never shown again. With --pg-env it is good for that pg_env alone.

    Parameters
    ----------
    role
        What it may do: read, write (and queue, cancel, retry), or admin (read).
    """
    from damad import tokens
    from damad.cli import render, session

    where = where or Where()
    settings = session.configuration(where)
    session.narrowed(settings, where.pg_env)
    made = tokens.add(settings.state_dir, name, role, pg_env=where.pg_env)
    render.as_json({"name": name, "role": role, "pg_env": where.pg_env, "token": made}) if json else print(made)
    return 0


def revoke(name: str, /, *, json: Json = False, where: Where | None = None) -> int:
    """Take a token back: nobody is let in with it any more."""
    from damad import tokens
    from damad.cli import render

    tokens.revoke(_state_dir(where), name)
    render.as_json({"name": name}) if json else print(f"token {name} is revoked")
    return 0


def _state_dir(where: Where | None) -> Path:
    from damad.cli import session

    return session.configuration(where or Where()).state_dir


def _shown(token: Any) -> dict[str, Any]:
    return {"name": token.name, "role": token.role, "pg_env": token.pg_env, "made_at": token.made_at}

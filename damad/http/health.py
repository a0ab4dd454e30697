"""/healthz and /readyz: whether the daemon lives, and whether it can do what it is there for.

Both need no token: whoever watches over damad asks them. So they name pg_envs and states, and no address or reason.
"""

import asyncio
from typing import Any, Final

from aiohttp import web

from damad.context import EtlContext
from damad.errors import DamadError
from damad.eventstore.pools import Database
from damad.http import wire
from damad.http.pg_envs import PG_ENVS
from damad.http.problems import NotReady

PATIENCE: Final = 2.0
"""Seconds in which a pg_env has to answer."""
LAGGING: Final = 2.0
"""Seconds by which the loop may be late and still count as ready."""
_A_TURN: Final = 0.01


async def is_alive(request: web.Request) -> web.Response:
    """GET /healthz: the daemon's loop answers. It asks no Postgres; `degraded` is what it knows to be slower."""
    databases = [found.store.database for found in request.app[PG_ENVS].values()]
    deaf = any(database.listener().deaf for database in databases)
    return wire.answer({"status": "alive"} | ({"degraded": "no NOTIFY comes back; polling"} if deaf else {}))


async def is_ready(request: web.Request) -> web.Response:
    """GET /readyz: every pg_env answers and the loop is not late. Raises NotReady, which says what is wrong."""
    wire.query(request, wire.NoQuery)
    pg_envs = request.app[PG_ENVS]
    async with asyncio.TaskGroup() as group:
        lag = group.create_task(loop_lag())
        looks = {name: group.create_task(_look(found)) for name, found in pg_envs.items()}
    found = {name: look.result() for name, look in looks.items()}
    wrong = [f"pg_env {name} does not answer" for name, state in found.items() if not state["answers"]]
    if lag.result() > LAGGING:
        wrong.append(f"the loop is {lag.result():.1f} s late")
    if wrong:
        raise NotReady("; ".join(wrong), pg_envs=found, loop_lag=lag.result())
    return wire.answer({"status": "ready", "pg_envs": found, "loop_lag": lag.result()})


async def loop_lag() -> float:
    """By how many seconds the loop is late for a short timer."""
    loop = asyncio.get_running_loop()
    due = loop.time() + _A_TURN
    await asyncio.sleep(_A_TURN)
    return max(0.0, loop.time() - due)


def listener_state(database: Database) -> str:
    """`hears`; `polls` where no NOTIFY comes back; `connecting`, and until somebody listens."""
    listener = database.listener()
    if listener.hears:
        return "hears"
    return "polls" if listener.deaf else "connecting"


async def _look(found: EtlContext) -> dict[str, Any]:
    answers = True
    try:
        async with asyncio.timeout(PATIENCE):
            await found.store.ping()
    except (TimeoutError, DamadError):
        answers = False
    return {"answers": answers, "listener": listener_state(found.store.database)}

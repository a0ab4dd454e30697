"""Archives what the configuration says is old enough, each hour: what `damad archive` does, by the daemon itself.

Nothing depends on it. Of two daemons that do it in the same moment both may write a tree into a file of theirs; it is
removed once.
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import structlog

from damad import archive, context
from damad.context import EtlContext
from damad.errors import DamadError
from damad.eventstore.removal import Which
from damad.model.retention import Rule

log = structlog.get_logger()

_EVERY: Final = 3600.0
"""Seconds between two looks. To look costs a pass over the roots of the log."""


class Retention:
    """Keeps the log of a pg_env as short as its rules say. `to`: the folder of the archives."""

    def __init__(self, ambient: EtlContext, rules: Mapping[str, Rule], *, to: Path) -> None:
        self._ambient = ambient
        self._rules = rules
        self._to = to

    async def run(self) -> None:
        """Runs until it is cancelled; ends at once where there is no rule."""
        with context.run_in(self._ambient):
            while self._rules:
                for name, rule in self._rules.items():
                    await self.apply(name, rule)
                await asyncio.sleep(_EVERY)

    async def apply(self, name: str, rule: Rule) -> None:
        """Archives what one rule says, and says so; what stands in the way is said too, and tried again later."""
        about = {"pg_env": self._ambient.pg_env, "rule": name}
        try:
            which = Which(states=rule.states, queue=rule.queue, older_than=rule.older_than)
            done = await archive.archive(which, to=self._to)
        except DamadError as error:
            log.warning("nothing was archived", **about, reason=str(error))
        except Exception:  # a fault in it is no reason to stop the daemon
            log.exception("nothing was archived", **about)
        else:
            if done.file is not None:
                log.info("archived", **about, contexts=done.contexts, removed=done.removed, file=done.file)

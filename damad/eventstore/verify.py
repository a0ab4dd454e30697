"""Compares every projection with the fold of its events: what `damad verify` does.

Events that the original wrote against the rules are marked legacy in the log: a fold passes them over, and they are
listed beside the mismatches, for they are none.
"""

from typing import Any

import asyncpg
import msgspec

from damad.eventstore.folding import Findings, Legacy, Mismatch
from damad.eventstore.pools import Database
from damad.eventstore.sweep import Slice, sweep


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was verified, every mismatch and, where the original left some, the events that no rule allows."""

    contexts: int
    events: int
    mismatches: list[Mismatch]
    legacy: list[Legacy] = []


async def verify(database: Database) -> Report:
    """Compares a fold of all events with the projections. Raises Unavailable."""
    found: list[Findings] = []
    contexts = events = 0

    async def add(_: "asyncpg.Connection[Any]", looked_at: Slice) -> None:
        nonlocal contexts, events
        contexts += looked_at.contexts
        events += looked_at.events
        found.extend(looked_at.found)

    await sweep(database, add)
    found.sort(key=lambda findings: findings.etl_context_id)
    return Report(
        contexts,
        events,
        [mismatch for findings in found for mismatch in findings.mismatches],
        [left for findings in found for left in findings.legacy],
    )

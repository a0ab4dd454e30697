"""What Postgres says of a whole slice is what a fold of each of its contexts says, whatever is in the log."""

import asyncio
import json
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from test_lifecycle_table import HOST, WAYS, walked

from damad.errors import DamadError
from damad.eventstore.folding import Mismatch, fold, some_at_a_time
from damad.eventstore.pools import Database
from damad.eventstore.queries import query
from damad.eventstore.rebuild import rebuild
from damad.eventstore.store import EventStore
from damad.eventstore.verify import verify
from damad.model.event import SETTINGS_KEY
from damad.model.lifecycle import TRANSITIONS, Context, LoggedEvent, evolve

KINDS = sorted({kind for _, kind in TRANSITIONS} | {"NONSENSE"})
TYPES = {
    "TASK_INITIAL": ":INITIAL",
    "INITIAL": "x:INITIAL",
    "FINAL": "x:FINAL",
    "EVENT": ":A",
    "EVENT_ERROR": "x:ERROR",
}
OTHER_HOST = "1b4e28ba-2fa1-41d2-883f-0016d3cca427"
MOMENTS = [
    "2030-01-01T00:00:00.123456+00:00",
    "2020-01-31T10:00:00Z",
    "2030-03-29t10:00+0230",
    "2028-02-29T00:00:00Z",
    "2030-02-29T00:00:00Z",
    "0000-01-01T00:00:00Z",
    "2030-13-01T00:00:00Z",
    "soon",
    "2030-01-01",
]
DELAYS = [*MOMENTS, None, None, 90, 0, 0.5, "30s", "1.5h", " 2d ", True, -1, "9" * 30, 1e300]
EVENTS = ("etl_context_id", "version", "event_id", "type", "payload", "meta", "fence", "legacy", "_created_timestamp")


class Author:
    """Writes histories that no judge has seen: most are legal, and most of what they say can be read."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.event_id = 0

    def now_and_then(self, one_in: int) -> bool:
        return self.chance.randrange(one_in) == 0

    def history(self, etl_context_id: int) -> list[tuple[Any, ...]]:
        context, rows, version = Context(), [], 0
        created = datetime(2026, 1, 1, tzinfo=UTC)
        for _ in range(self.chance.randrange(14)):
            kind = self.kind(context)
            version += 2 if self.now_and_then(200) else 1
            created += timedelta(seconds=self.chance.choice([0, 1, 1, 40]))
            self.event_id += 1
            event = LoggedEvent(
                event_id=self.event_id,
                version=version,
                type=TYPES.get(kind, f"dama/task:{kind}"),
                payload=self.payload(kind, context),
                fence=self.fence(context),
                created_timestamp=created,
                meta={SETTINGS_KEY: self.settings()} if kind == "TASK_INITIAL" else None,
            )
            payload = '{"n": 1e400}' if self.now_and_then(300) else json.dumps(event.payload)
            rows.append(
                (
                    etl_context_id,
                    version,
                    event.event_id,
                    event.type,
                    payload,
                    json.dumps(event.meta),
                    event.fence,
                    self.now_and_then(200),
                    created,
                )
            )
            try:
                context = evolve(context, event)
            except (DamadError, ArithmeticError, AttributeError, KeyError, TypeError, ValueError):
                if not self.now_and_then(12):
                    rows.pop()
                    version -= 1
        return rows

    def kind(self, context: Context) -> str:
        if context.version == 0 and not self.now_and_then(20):
            return self.chance.choice(["TASK_INITIAL"] * 5 + ["INITIAL"])
        legal = sorted(kind for state, kind in TRANSITIONS if state == context.state)
        return self.chance.choice(KINDS if not legal or self.now_and_then(20) else legal)

    def fence(self, context: Context) -> int | None:
        held = context.task.fence if context.task else 0
        return self.chance.choice([None, None, held] + ([held - 1] if self.now_and_then(10) else []))

    def odd(self, usual: list[Any], rare: list[Any]) -> Any:
        return self.chance.choice(rare if self.now_and_then(15) else usual)

    def settings(self) -> Any:
        return self.odd(
            [
                {
                    "worker": self.odd(["ok.py"], ["", 5, None]),
                    "queue": self.odd(["default", "gis", None], [7]),
                    "priority": self.odd([0, 5, None], ["7", 1.0, True]),
                    "dama_host_id": self.odd([HOST, None], [HOST.upper()]),
                    "start_after": self.odd([None, 90, *MOMENTS[:2]], DELAYS),
                },
                {"worker_path": "/srv/ok.ts"},
            ],
            [5, "x", [], {}, {"worker": None, "worker_path": "a"}],
        )

    def payload(self, kind: str, context: Context) -> Any:
        fence = context.task.fence if context.task else 0
        match kind:
            case "CLAIMED":
                return self.odd(
                    [{"fence": fence + 1, "host_id": self.odd([HOST, OTHER_HOST], [None, HOST.upper(), "x", 5])}],
                    [{"fence": fence}, {"fence": str(fence + 2)}, {"fence": fence + 1.5}, {}, None, [1]],
                )
            case "STARTED":
                return self.odd(
                    [{"attempt": self.chance.randrange(1, 3), "pid": self.chance.randrange(1, 3)}],
                    [{"attempt": 1}, {"attempt": "2", "pid": "7"}, {"attempt": None}, {"pid": 1}, None],
                )
            case "ERROR":
                return self.odd([{"kind": "exit"}, {"kind": "exception"}], [{"kind": ["exit"]}, {}, None, "exit"])
            case "RETRY":
                return self.odd(
                    [{"run_at": moment} for moment in MOMENTS[:3]], [{"run_at": at} for at in DELAYS] + [None]
                )
            case "RELEASED":
                said = [None, {}, {"run_at": MOMENTS[0]}, {"keeps_attempt": True}]
                return self.odd(said, [*({"run_at": at} for at in DELAYS), {"keeps_attempt": "true"}, [1]])
            case "WAITING":
                return self.odd(
                    [None, {"until": MOMENTS[0]}, {"event": ":A", "after_version": 0}], [{"until": at} for at in DELAYS]
                )
            case "PROGRESS":
                return self.chance.choice([{"fraction": 0.5}, {"fraction": 0.7}, None, [1]])
        return self.chance.choice([{"n": 1}, None])

    def damage(self) -> str:
        """A statement that spoils something somewhere."""
        column, value = self.chance.choice(DAMAGES)
        table = "etl_contexts" if column in ("etl_status", "latest_event_id", "version") else "dama_tasks"
        every = self.chance.choice([2, 3, 7])
        return (
            f"UPDATE data_manager.{table} SET {column} = {value} "
            f"WHERE etl_context_id % {every} = {self.chance.randrange(every)} AND {column} IS DISTINCT FROM {value}"
        )


DAMAGES = [
    ("etl_status", "'OPEN'"),
    ("latest_event_id", "latest_event_id - 1"),
    ("version", "version + 1"),
    ("initial_event_id", "initial_event_id + 1"),
    ("worker", "'else.py'"),
    ("queue", "'else'"),
    ("priority", "priority + 1"),
    ("settings", "settings || '{\"x\": 1}'"),
    ("state", "'queued'"),
    ("state", "'done'"),
    ("run_at", "run_at + interval '1 us'"),
    ("home_host_id", "NULL"),
    ("home_host_id", f"'{OTHER_HOST}'::uuid"),
    ("host_id", "NULL"),
    ("host_id", f"'{HOST}'::uuid"),
    ("fence", "fence + 1"),
    ("fence", "0"),
    ("attempt", "attempt + 1"),
    ("attempt", "0"),
    ("pid", "NULL"),
    ("pid", "1"),
    ("errors", "errors + 1"),
    ("crashes", "crashes + 1"),
    ("resumed", "NOT resumed"),
    ("started_at", "NULL"),
    ("started_at", "run_at"),
    ("finished_at", "NULL"),
    ("finished_at", "run_at"),
    ("progress", "NULL"),
    ("progress", "'{\"fraction\": 0.5}'::jsonb"),
    ("error", "NULL"),
    ("error", '\'{"kind": "exit"}\'::jsonb'),
    ("idempotency_key", "etl_context_id::text"),
    ("schedule", "'another'"),
    ("waits_for", "'{}'::jsonb"),
    ("start_by", "run_at"),
    ("singleton_key", "etl_context_id::text"),
]


async def all_folded(database: Database) -> list[Mismatch]:
    """What a fold of every context says."""
    async with database.connection() as connection, connection.transaction():
        ids = [
            row[0] for row in await connection.fetch("SELECT etl_context_id FROM data_manager.etl_contexts ORDER BY 1")
        ]
        return [
            mismatch
            for some in some_at_a_time(ids)
            for folding in await fold(connection, some)
            for mismatch in folding.mismatches()
        ]


def contexts(mismatches: list[Mismatch]) -> set[int]:
    return {mismatch.etl_context_id for mismatch in mismatches}


async def written(plain: "asyncpg.Connection[Any]", author: Author, *, count: int) -> None:
    """Histories past the judge. What is said later needs no judge either."""
    await plain.execute("SET session_replication_role = replica")
    await plain.execute(
        "INSERT INTO data_manager.etl_contexts (etl_context_id) SELECT n FROM generate_series(1, $1) AS n", count
    )
    rows = [row for id_ in range(1, count + 1) for row in author.history(id_)]
    values = ", ".join(f"${n}" if n not in (5, 6) else f"${n}::text::jsonb" for n in range(1, len(EVENTS) + 1))
    await plain.executemany(
        f"INSERT INTO data_manager.event_store ({', '.join(EVENTS)}, event_uuid, txid) "
        f"VALUES ({values}, gen_random_uuid(), pg_current_xact_id()) ON CONFLICT DO NOTHING",
        rows,
    )


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_is_in_the_log_verify_says_what_a_fold_of_each_context_says(
    plain: "asyncpg.Connection[Any]", database: Database, seed: int
) -> None:
    author = Author(seed)
    await written(plain, author, count=600)
    assert (await verify(database)).mismatches == await all_folded(database)
    rebuilt = await rebuild(database)
    assert rebuilt.mended > 300 and contexts(rebuilt.broken) == contexts(await all_folded(database))
    for _ in range(12):
        damage = author.damage()
        await plain.execute(damage)
        report = await verify(database)
        assert report.mismatches == await all_folded(database), damage
    assert report.contexts == 600
    assert (await rebuild(database)).broken == rebuilt.broken
    assert contexts(await all_folded(database)) == contexts(rebuilt.broken)


async def test_each_value_of_each_projection_counts(store: EventStore, plain: "asyncpg.Connection[Any]") -> None:
    """Of two that look alike the first is right, so the second is not looked at unless Postgres says so."""
    for way in WAYS.values():
        for _ in range(2):
            await walked(store, way)
    assert (await verify(store.database)).mismatches == []
    for column, value in DAMAGES:
        table = "etl_contexts" if column in ("etl_status", "latest_event_id", "version") else "dama_tasks"
        async with plain.transaction():
            done = await plain.execute(
                f"UPDATE data_manager.{table} SET {column} = {value} "
                f"WHERE etl_context_id % 2 = 0 AND {column} IS DISTINCT FROM {value}"
            )
        spoilt = int(done.split()[-1])
        report = await verify(store.database)
        assert len(contexts(report.mismatches)) == spoilt, column
        assert (await rebuild(store.database)).mended == spoilt


RUNS = ["CLAIMED", "STARTED"]
BEGINNING = ["TASK_INITIAL", "CLAIMED", "RELEASED", *RUNS, "ERROR RETRY", "EVENT", *RUNS, "PROGRESS", "EVENT"]
END = [*RUNS, "SUBTASK", "EVENT", "FINAL"]
LONG_WAYS = [
    [
        *BEGINNING,
        "STEP",
        "WAITING",
        "EVENT",
        "RESUMED",
        *RUNS,
        "ERROR FAILED",
        *["REQUEUED", "CLAIMED", "RELEASED"],
        *END,
    ],
    ["TASK_INITIAL later", "EVENT", *RUNS, "CANCEL_REQUESTED", "ERROR CANCELLED", "REQUEUED", *RUNS, "RELEASED"],
    ["INITIAL", "EVENT", "EVENT_ERROR", "EVENT", "FINAL"],
]
NEXT = 1_000_000
COPY = {
    "etl_contexts": f"initial_event_id = initial_event_id + {NEXT}, latest_event_id = latest_event_id + {NEXT}",
    "event_store": f"event_id = event_id + {NEXT}, event_uuid = gen_random_uuid()",
    "dama_tasks": f"initial_event_id = initial_event_id + {NEXT}",
}


async def again(plain: "asyncpg.Connection[Any]") -> None:
    """The same histories and projections once more, under ids of their own."""
    for table, ids in COPY.items():
        await plain.execute(f"CREATE TEMP TABLE copied AS TABLE data_manager.{table}")
        await plain.execute(f"UPDATE copied SET etl_context_id = etl_context_id + 1000, {ids}")
        await plain.execute(f"INSERT INTO data_manager.{table} SELECT * FROM copied")
        await plain.execute("DROP TABLE copied")


SPOILT = [
    "etl_context_id = -event_id WHERE type = ':A' OR type LIKE '%:LOADED'",
    "fence = fence + 1 WHERE fence IS NOT NULL",
    "fence = 0 WHERE fence IS NULL",
    "fence = NULL WHERE fence IS NOT NULL",
    "legacy = true WHERE type = ':A'",
    "payload = '{\"n\": 1e400}' WHERE type = ':A'",
    "version = version + 50",
    "type = 'dama/task:NONSENSE' WHERE type = ':A'",
    "type = 'dama/task:STEP' WHERE type = ':A'",
    "type = ':A' WHERE type = 'dama/task:STEP'",
    "type = 'x:ERROR' WHERE type = ':A'",
    "type = 'x:UPDATE' WHERE version = 1",
    "event_id = -event_id",
    "_created_timestamp = _created_timestamp + interval '1 us'",
    "meta = NULL WHERE version = 1",
    "payload = NULL WHERE type <> 'dama/task:CLAIMED'",
    "payload = payload || '{\"fence\": 1}' WHERE type LIKE '%CLAIMED'",
    "payload = payload || '{\"fence\": 99}' WHERE type LIKE '%CLAIMED'",
    "payload = payload || '{\"host_id\": \"x\"}' WHERE type LIKE '%CLAIMED'",
    "payload = payload || '{\"attempt\": \"x\"}' WHERE type LIKE '%STARTED'",
    "payload = payload || '{\"pid\": null}' WHERE type LIKE '%STARTED'",
    "payload = payload || '{\"pid\": \"x\"}' WHERE type LIKE '%STARTED'",
    "payload = '{\"kind\": \"oom\"}' WHERE payload ->> 'kind' = 'exception'",
    "payload = '{\"kind\": \"load\"}' WHERE payload ->> 'kind' = 'exit'",
    "payload = '{\"run_at\": \"soon\"}' WHERE type LIKE '%RETRY'",
    "payload = '{\"run_at\": 1}' WHERE type LIKE '%RELEASED'",
    "payload = '{\"run_at\": \"2029-01-01T00:00:00Z\"}' WHERE type LIKE '%RELEASED'",
    "payload = '{\"run_at\": \"2000-01-01T00:00:00Z\"}' WHERE payload ? 'run_at'",
]


async def whatever_is_spoilt_is_seen(plain: "asyncpg.Connection[Any]", database: Database, which: str) -> None:
    await plain.execute("SET session_replication_role = replica")
    await plain.execute("CREATE TEMP TABLE kept AS TABLE data_manager.event_store")
    for spoilt in SPOILT:
        what, _, where = spoilt.partition(" WHERE ")
        for every, turn in ((1, 0), (2, 0), (2, 1)):
            await plain.execute(
                f"UPDATE data_manager.event_store SET {what} "
                f"WHERE {which} AND event_id % {every} = {turn} AND ({where or 'true'})"
            )
            assert (await verify(database)).mismatches == await all_folded(database), (spoilt, every)
            await plain.execute("DELETE FROM data_manager.event_store")
            await plain.execute("INSERT INTO data_manager.event_store SELECT * FROM kept")


async def test_each_value_of_each_event_counts(plain: "asyncpg.Connection[Any]", database: Database) -> None:
    """Two of each history, of which the first is right: whatever is done to an event of the second."""
    await written(plain, Author(4), count=120)
    broken = contexts((await rebuild(database)).broken)
    await again(plain)
    assert contexts((await verify(database)).mismatches) == broken | {id_ + 1000 for id_ in broken}
    await whatever_is_spoilt_is_seen(plain, database, "etl_context_id > 1000")


async def test_each_value_of_each_event_of_a_long_story_counts(
    plain: "asyncpg.Connection[Any]", store: EventStore
) -> None:
    for way in (*WAYS.values(), *LONG_WAYS):
        for _ in range(2):
            await walked(store, way)
    assert (await verify(store.database)).mismatches == []
    await whatever_is_spoilt_is_seen(plain, store.database, "etl_context_id % 2 = 0")


async def test_a_busy_log_is_no_mismatch(store: EventStore) -> None:
    walkers = [await walked(store, WAYS["running"]) for _ in range(20)]

    async def go_on() -> None:
        for kind in ("PROGRESS", "STEP", "EVENT", "WAITING", "RESUMED", "FINAL"):
            for walker in walkers:
                await walker.take(kind)

    writing = asyncio.create_task(go_on())
    looked = 0
    while not writing.done() or looked == 0:
        assert (await verify(store.database)).mismatches == []
        looked += 1
    await writing


async def test_what_damad_writes_has_a_shape(store: EventStore) -> None:
    """Or every context would be folded in Python, and verify be slow."""
    for way in (*WAYS.values(), *LONG_WAYS):
        await walked(store, way)
    async with store.database.connection() as connection:
        rows = await connection.fetch(query("shapes"), 0, 1000)
    assert len(rows) == len(WAYS) + len(LONG_WAYS) and all(row["shape"] is not None for row in rows)

"""A database as the original had it: its tables, its trigger, its view, and what a few years leave in them.

Written from the facts (names, columns, types, keys, what the trigger does), not from its text. `START` may run again,
as the original's programs do whenever they start.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any, Final, NamedTuple
from uuid import uuid4

import asyncpg
from postgres_support import in_database, sql

from damad.eventstore.pools import Database

TABLES: Final = """
CREATE SCHEMA IF NOT EXISTS data_manager;
CREATE SCHEMA IF NOT EXISTS _data_manager_admin;

CREATE TABLE IF NOT EXISTS data_manager.database_id AS
  SELECT '6f1c5c1e-3f5e-4b8e-9d0a-2b7f6e1d4c3b'::uuid AS uuid, '6f1c5c1e' AS short_id;

CREATE TABLE IF NOT EXISTS data_manager.sources (
  source_id serial PRIMARY KEY, name text NOT NULL UNIQUE CHECK (char_length(name) <= 32), update_interval text,
  category text[], description text, statistics jsonb, metadata jsonb, categories jsonb, type text, display_name text,
  source_dependencies integer[], user_id integer,
  _created_timestamp timestamp NOT NULL DEFAULT now(), _modified_timestamp timestamp NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS data_manager.views (
  view_id serial PRIMARY KEY, source_id integer NOT NULL REFERENCES data_manager.sources (source_id),
  version text, table_schema text, table_name text, metadata jsonb, etl_context_id integer,
  _created_timestamp timestamp NOT NULL DEFAULT now(), _modified_timestamp timestamp NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS data_manager.etl_statuses (etl_status text PRIMARY KEY);
INSERT INTO data_manager.etl_statuses VALUES ('OPEN'), ('DONE'), ('ERROR') ON CONFLICT DO NOTHING;

CREATE TABLE IF NOT EXISTS data_manager.etl_contexts (
  etl_context_id serial PRIMARY KEY,
  parent_context_id integer REFERENCES data_manager.etl_contexts (etl_context_id) ON DELETE CASCADE,
  source_id integer REFERENCES data_manager.sources (source_id) ON DELETE CASCADE,
  etl_task_id text,
  etl_status text REFERENCES data_manager.etl_statuses (etl_status) ON DELETE CASCADE,
  initial_event_id integer,
  latest_event_id integer,
  _created_timestamp timestamp NOT NULL DEFAULT now(), _modified_timestamp timestamp NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS data_manager.event_store (
  event_id serial PRIMARY KEY,
  etl_context_id integer NOT NULL REFERENCES data_manager.etl_contexts (etl_context_id) ON DELETE CASCADE,
  type text NOT NULL, payload jsonb, meta jsonb, error boolean,
  _created_timestamp timestamp NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS event_store_etl_ctx_idx ON data_manager.event_store (etl_context_id);
"""

FUNCTIONS: Final = """
CREATE OR REPLACE FUNCTION data_manager.dama_update_modified_timestamp_fn() RETURNS trigger LANGUAGE plpgsql AS $$
  BEGIN
    NEW._modified_timestamp = now();
    RETURN NEW;
  END $$;

CREATE OR REPLACE FUNCTION data_manager.event_store_etl_context_status_update_fn() RETURNS trigger
  LANGUAGE plpgsql AS $$
  DECLARE
    ctx data_manager.etl_contexts;
  BEGIN
    SELECT * INTO ctx FROM data_manager.etl_contexts WHERE etl_context_id = NEW.etl_context_id;
    IF ctx.etl_status = 'DONE' THEN
      RAISE EXCEPTION 'context % is DONE', NEW.etl_context_id;
    ELSIF NEW.type LIKE '%:INITIAL' AND ctx.initial_event_id IS NOT NULL THEN
      RAISE EXCEPTION 'context % has an INITIAL event', NEW.etl_context_id;
    ELSIF NEW.type NOT LIKE '%:INITIAL' AND ctx.initial_event_id IS NULL THEN
      RAISE EXCEPTION 'the first event is an INITIAL event';
    END IF;
    UPDATE data_manager.etl_contexts
      SET etl_status = CASE WHEN NEW.type LIKE '%:FINAL' THEN 'DONE' WHEN NEW.type LIKE '%:ERROR' THEN 'ERROR'
                            ELSE 'OPEN' END,
          initial_event_id = coalesce(initial_event_id, NEW.event_id),
          latest_event_id = NEW.event_id
      WHERE etl_context_id = NEW.etl_context_id;
    IF NEW.type LIKE '%:FINAL' THEN
      PERFORM pg_notify('ETL_CONTEXT_FINAL_EVENT', NEW.etl_context_id::text);
    END IF;
    RETURN NULL;
  END $$;
"""

UNLESS_THERE: Final = """
DO $$
  DECLARE
    made text;
  BEGIN
    FOREACH made IN ARRAY ARRAY[
      'etl_contexts_modified_timestamp_trigger BEFORE UPDATE ON data_manager.etl_contexts FOR EACH ROW '
        'EXECUTE FUNCTION data_manager.dama_update_modified_timestamp_fn()',
      'dama_source_modified_timestamp_trigger BEFORE UPDATE ON data_manager.sources FOR EACH ROW '
        'EXECUTE FUNCTION data_manager.dama_update_modified_timestamp_fn()',
      'event_store_etl_context_status_update_trigger AFTER INSERT ON data_manager.event_store FOR EACH ROW '
        'EXECUTE FUNCTION data_manager.event_store_etl_context_status_update_fn()'
    ] LOOP
      IF NOT EXISTS (SELECT FROM information_schema.triggers
                       WHERE trigger_schema = 'data_manager' AND trigger_name = split_part(made, ' ', 1)) THEN
        EXECUTE 'CREATE TRIGGER ' || made;
      END IF;
    END LOOP;
    FOREACH made IN ARRAY ARRAY[
      'views views_etl_ctx_id_fkey FOREIGN KEY (etl_context_id) REFERENCES data_manager.etl_contexts (etl_context_id)',
      'etl_contexts etl_contexts_initial_event_id_fkey FOREIGN KEY (initial_event_id) '
        'REFERENCES data_manager.event_store (event_id) ON DELETE CASCADE',
      'etl_contexts etl_contexts_latest_event_id_fkey FOREIGN KEY (latest_event_id) '
        'REFERENCES data_manager.event_store (event_id) ON DELETE CASCADE'
    ] LOOP
      IF NOT EXISTS (SELECT FROM pg_constraint
                       WHERE connamespace = 'data_manager'::regnamespace AND conname = split_part(made, ' ', 2)
                         AND conrelid = ('data_manager.' || split_part(made, ' ', 1))::regclass) THEN
        EXECUTE format('ALTER TABLE data_manager.%s ADD CONSTRAINT %s', split_part(made, ' ', 1),
                       substr(made, strpos(made, ' ') + 1));
      END IF;
    END LOOP;
  END $$;

CREATE OR REPLACE VIEW _data_manager_admin.dama_sources_comprehensive AS
  SELECT *, upper(name) AS dama_src_normalized_name FROM data_manager.sources;
"""

START: Final = TABLES + FUNCTIONS + UNLESS_THERE
"""What each program of the original runs first."""

QUEUE: Final = """
CREATE SCHEMA pgboss;
CREATE TABLE pgboss.job (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text NOT NULL, priority integer NOT NULL DEFAULT 0, data jsonb,
  state text NOT NULL, retrylimit integer DEFAULT 0, retrycount integer DEFAULT 0, startafter timestamptz DEFAULT now(),
  startedon timestamptz, completedon timestamptz, output jsonb
);
CREATE TABLE pgboss.archive (LIKE pgboss.job);
ALTER TABLE pgboss.archive ADD archivedon timestamptz;

CREATE VIEW data_manager.dama_task_queue AS
  SELECT a.etl_context_id, a.parent_context_id, a.source_id, a.etl_task_id, a.etl_status, a.initial_event_id,
         a.latest_event_id, a._created_timestamp, a._modified_timestamp, b.id AS task_id, b.name AS task_queue_name,
         b.priority AS task_priority, b.data AS task_data, b.state AS task_state, b.retrylimit AS task_retry_limit,
         b.retrycount AS task_retry_count, b.startafter AS task_start_after, b.startedon AS task_started_on,
         b.completedon AS task_completed_on, b.output AS task_output, b.archivedon AS task_archived_on
    FROM data_manager.etl_contexts AS a
      LEFT JOIN (SELECT *, NULL::timestamptz AS archivedon FROM pgboss.job UNION SELECT * FROM pgboss.archive) AS b
        ON a.etl_context_id = (b.data ->> 'etl_context_id')::integer;

CREATE FUNCTION data_manager.show_etl_context_tree(context_id integer)
  RETURNS TABLE (etl_context_id integer, parent_context_id integer) LANGUAGE sql STABLE AS $$
    WITH RECURSIVE tree AS (
      SELECT c.etl_context_id, c.parent_context_id FROM data_manager.etl_contexts c WHERE c.etl_context_id = context_id
      UNION
      SELECT c.etl_context_id, c.parent_context_id FROM data_manager.etl_contexts c JOIN tree t
        ON c.etl_context_id = t.parent_context_id OR c.parent_context_id = t.etl_context_id
    ) SELECT * FROM tree $$;
"""

HOST: Final = "1b4e28ba-2fa1-41d2-883f-0016d3cca427"
TASK: Final = (
    f'{{"user_id": 7, "__dama_task_manager__": {{"worker_path": "/srv/dama/tasks/load.worker.ts", '
    f'"dama_host_id": "{HOST}", "dama_task_queue_name": "{HOST}:gis", "pgboss_send_options": {{"retryLimit": 2}}}}}}'
)
"""The meta of an :INITIAL event that the original's task manager wrote."""


class Kind(NamedTuple):
    """A context that the original left: the types of its events, and what damad makes of it.

    `breaks`: the rule, as verify names it, for the version of each event that breaks one.
    """

    types: Sequence[str]
    state: str
    breaks: Mapping[int, str] = MappingProxyType({})


BEGINS = "the first event is :INITIAL"
ONE_INITIAL = "only the first event is :INITIAL"
ENDS = "nothing follows :FINAL"
OWN_TYPE = "dama/task:… are damad's own types"

SOUND: Final = {
    "nothing": Kind([], "open"),
    "begun": Kind(["gis:INITIAL"], "open"),
    "half way": Kind(["gis:INITIAL", "gis/load:LOAD_INIT", "acs:attempt: 1; 20%"], "open"),
    "failed": Kind(["gis:INITIAL", "gis:UPDATE", ":ERROR"], "error"),
    "tried again": Kind(["gis:INITIAL", ":ERROR", "gis:UPDATE"], "open"),
    "done": Kind(["gis:INITIAL", "gis:UPDATE", "gis:FINAL"], "done"),
    "done at last": Kind(["gis:INITIAL", ":ERROR", ":ERROR", "gis:FINAL"], "done"),
}
"""What the original's own trigger let in."""

BROKEN: Final = {
    "two :INITIAL": Kind([":INITIAL", ":INITIAL", "gis:UPDATE"], "open", {2: ONE_INITIAL}),
    "two :FINAL": Kind([":INITIAL", "a:FINAL", "b:FINAL"], "done", {3: ENDS}),
    "reopened": Kind([":INITIAL", ":FINAL", "gis:UPDATE"], "done", {3: ENDS}),
    "failed after it was done": Kind([":INITIAL", ":FINAL", ":ERROR"], "done", {3: ENDS}),
    "begun again after it was done": Kind(
        [":INITIAL", ":FINAL", ":INITIAL", "x:UPDATE", ":FINAL"], "done", {3: ENDS, 4: ENDS, 5: ENDS}
    ),
    "an event before :INITIAL": Kind(["gis:UPDATE", ":INITIAL", ":FINAL"], "done", {1: BEGINS}),
    ":FINAL before :INITIAL": Kind([":FINAL", ":INITIAL", "gis:UPDATE"], "open", {1: BEGINS}),
    "no :INITIAL": Kind(["gis:UPDATE", ":ERROR"], "open", {1: BEGINS, 2: BEGINS}),
    "only :FINAL": Kind([":FINAL"], "open", {1: BEGINS}),
    "a type of damad's own": Kind(
        [":INITIAL", "dama/task:ERROR", "dama/task:CLAIMED", "gis:UPDATE"], "open", {2: OWN_TYPE, 3: OWN_TYPE}
    ),
    "everything": Kind(
        ["x:UPDATE", ":INITIAL", ":INITIAL", "dama/task:RETRY", ":FINAL", ":FINAL"], "done",
        {1: BEGINS, 3: ONE_INITIAL, 4: OWN_TYPE, 6: ENDS},
    ),
}  # fmt: skip
"""What races, restored backups and hands left there against the rules."""

KINDS: Final = {**SOUND, **BROKEN}


async def make_original(connection: "asyncpg.Connection[Any]") -> None:
    """The tables of the original, and a few years in them."""
    await connection.execute(START + QUEUE)
    await connection.execute(
        "INSERT INTO data_manager.sources (name, type) VALUES ('tiger', 'tiger_full'), ('npmrds', 'npmrds')"
    )
    for name, kind in KINDS.items():
        await _context(connection, name, kind)
    await _much(connection)
    await connection.execute(
        "INSERT INTO data_manager.views (source_id, etl_context_id, version) SELECT 1, min(etl_context_id), '1'"
        " FROM data_manager.etl_contexts;"
        "INSERT INTO pgboss.job (name, data, state) SELECT 'gis', jsonb_build_object('etl_context_id', etl_context_id),"
        " 'completed' FROM data_manager.etl_contexts WHERE etl_status = 'DONE'"
    )


async def _context(connection: "asyncpg.Connection[Any]", name: str, kind: Kind) -> None:
    """One context of a kind, named by its etl_task_id. Against the rules only past the trigger, as races were."""
    id_ = await connection.fetchval(
        "INSERT INTO data_manager.etl_contexts (source_id, etl_task_id) VALUES (1, $1) RETURNING etl_context_id", name
    )
    if kind.breaks:
        await connection.execute("ALTER TABLE data_manager.event_store DISABLE TRIGGER USER")
    for number, type_ in enumerate(kind.types, 1):
        await connection.execute(
            "INSERT INTO data_manager.event_store (etl_context_id, type, payload, meta, error, _created_timestamp)"
            " VALUES ($1, $2, $3::text::jsonb, $4::text::jsonb, $5,"
            " timestamp '2021-07-04 10:00' - $6 * interval '1 h')",
            id_, type_, [None, '{"n": 1.50, "é": [1, {}]}', "[1, 2]", '"text"'][number % 4],
            TASK if type_.endswith(":INITIAL") else [None, "{}", "7"][number % 3], type_.endswith(":ERROR"), number,
        )  # fmt: skip
    if kind.breaks:
        await connection.execute(
            "ALTER TABLE data_manager.event_store ENABLE TRIGGER USER;"
            "UPDATE data_manager.etl_contexts c"
            " SET etl_status = 'OPEN', latest_event_id = e.last, initial_event_id = e.last"
            " FROM (SELECT etl_context_id, max(event_id) AS last FROM data_manager.event_store GROUP BY 1) AS e"
            f" WHERE e.etl_context_id = c.etl_context_id AND c.etl_context_id = {id_}"
        )


async def _much(connection: "asyncpg.Connection[Any]") -> None:
    """200 contexts of 100 events each, written by turns; then ids that somebody gave by hand."""
    await connection.execute("""
        ALTER TABLE data_manager.event_store DISABLE TRIGGER USER;
        WITH made AS (
          INSERT INTO data_manager.etl_contexts (source_id, parent_context_id)
            SELECT 2, CASE WHEN n % 2 = 0 THEN 1 END FROM generate_series(1, 200) AS n RETURNING etl_context_id
        )
        INSERT INTO data_manager.event_store (etl_context_id, type, payload, _created_timestamp)
          SELECT etl_context_id,
                 CASE n WHEN 1 THEN 'npmrds:INITIAL' WHEN 100 THEN 'npmrds:FINAL' ELSE 'npmrds/load:UPDATE' END,
                 jsonb_build_object('n', n), timestamp '2022-03-01' + n * interval '1 min'
            FROM generate_series(1, 100) AS n CROSS JOIN made
            ORDER BY n, etl_context_id;
        UPDATE data_manager.etl_contexts c SET etl_status = 'DONE', initial_event_id = e.first, latest_event_id = e.last
          FROM (SELECT etl_context_id, min(event_id) AS first, max(event_id) AS last
                  FROM data_manager.event_store GROUP BY 1) AS e
          WHERE e.etl_context_id = c.etl_context_id AND c.source_id = 2;
        INSERT INTO data_manager.etl_contexts (etl_context_id) VALUES (900000);
        INSERT INTO data_manager.event_store (event_id, etl_context_id, type) VALUES (800000, 900000, ':INITIAL');
        ALTER TABLE data_manager.event_store ENABLE TRIGGER USER;
    """)


@asynccontextmanager
async def template_of(server: str, name: str) -> AsyncIterator[None]:
    """A database of the original under that name, to be copied."""
    await sql(server, f"CREATE DATABASE {name}")
    try:
        connection = await asyncpg.connect(in_database(server, name))
        await make_original(connection)
        await connection.close()
        yield
    finally:
        await sql(server, f"DROP DATABASE {name} WITH (FORCE)")


@asynccontextmanager
async def copy_of(server: str, template: str) -> AsyncIterator[Database]:
    """A database of its own, made from a template."""
    name = f"upgrade_{uuid4().hex[:12]}"
    await sql(server, f"CREATE DATABASE {name} TEMPLATE {template}")
    database = Database("main", in_database(server, name))
    try:
        yield database
    finally:
        await database.close()
        await sql(server, f"DROP DATABASE {name} WITH (FORCE)")


async def rows(database: Database, statement: str, *arguments: Any) -> list[tuple[Any, ...]]:
    """What a statement returns."""
    async with database.connection() as connection:
        return [tuple(row) for row in await connection.fetch(statement, *arguments)]


async def value(database: Database, statement: str, *arguments: Any) -> Any:
    """The first value that a statement returns."""
    return (await rows(database, statement, *arguments))[0][0]


async def named(database: Database, name: str) -> int:
    """The id of the context of a kind."""
    statement = "SELECT etl_context_id FROM data_manager.etl_contexts WHERE etl_task_id = $1"
    return int(await value(database, statement, name))


CATALOGUE: Final = """
    SELECT format('%s.%s %s', attrelid::regclass, attname, format_type(atttypid, atttypmod)) AS what
      FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
      WHERE c.relnamespace = 'data_manager'::regnamespace AND attnum > 0
    UNION ALL SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = 'data_manager'::regnamespace
    UNION ALL SELECT tgname || tgenabled::text FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'data_manager'::regnamespace
    ORDER BY 1
"""
"""Everything that an upgrade changes."""
EVENTS: Final = (
    "SELECT event_id, etl_context_id, type, payload, meta, error FROM data_manager.event_store ORDER BY event_id"
)

-- The upgrade of a database that the original made, in place, second part. Every context and every event stays, with its
-- id, its payload and its meta. Tables and columns that damad does not know are left alone, and so is `sources`, which is
-- configuration: views and functions of the original stand on its integer ids.
--
-- The rules that the original could not enforce are asked of its events in the order of event_id. An event is *legacy*,
-- and passed over by every fold, where it comes before the context's first :INITIAL, is another :INITIAL, has a type that
-- is damad's own, or comes after the :FINAL that ended the context. Of the others the projections are made again: a
-- context that an event reopened after its :FINAL is DONE, one without :INITIAL is as new. `damad verify` lists them.
--
-- No context of the original is a task, whatever the meta of its :INITIAL says: damad never runs again what was queued
-- for another scheduler, perhaps years ago. Such a context has the state that its events give it (open, error, done), and
-- takes more events while it is not done. Whoever wants one to run queues it anew. An :INITIAL with task settings that is
-- appended from now on is a task like any other, whoever appends it.
--
-- Timestamps without zone are read in the session's TimeZone, which is the server's (or the database's own) setting.
-- Times that decrease within a context are kept as they are: no rule of the original said otherwise.
-- Grants on the view dama_task_queue go with it and must be given again.

-- Where each context begins and ends.
CREATE TEMPORARY TABLE spans ON COMMIT DROP AS
  SELECT i.etl_context_id, i.first, min(f.event_id) AS last
    FROM (
      SELECT etl_context_id, min(event_id) AS first
        FROM data_manager.event_store WHERE type LIKE '%:INITIAL' GROUP BY etl_context_id
    ) AS i
      LEFT JOIN data_manager.event_store f
        ON f.etl_context_id = i.etl_context_id AND f.event_id > i.first AND f.type LIKE '%:FINAL'
    GROUP BY i.etl_context_id, i.first;

-- The place of each event in its context, and whether a fold passes it over.
CREATE TEMPORARY TABLE places ON COMMIT DROP AS
  SELECT e.event_id,
         e.etl_context_id,
         e._created_timestamp AS written_at,
         row_number() OVER (PARTITION BY e.etl_context_id ORDER BY e.event_id) AS version,
         CASE
           WHEN s.first IS NULL OR e.event_id < s.first OR e.event_id > s.last THEN true
           WHEN e.event_id = s.first OR e.type LIKE '%:FINAL'                  THEN false
           ELSE e.type LIKE '%:INITIAL' OR e.type LIKE 'dama/task:%'
         END AS legacy
    FROM data_manager.event_store e LEFT JOIN spans s USING (etl_context_id);

-- What the row of each context says of its events.
CREATE TEMPORARY TABLE heads ON COMMIT DROP AS
  SELECT etl_context_id,
         max(version)                            AS version,
         max(written_at)                         AS written_at,
         min(event_id) FILTER (WHERE NOT legacy) AS initial_event_id,
         max(event_id) FILTER (WHERE NOT legacy) AS latest_event_id
    FROM places
    GROUP BY etl_context_id;

CREATE UNIQUE INDEX ON places (event_id);
CREATE UNIQUE INDEX ON heads (etl_context_id);
ANALYZE places;
ANALYZE heads;

CREATE FUNCTION pg_temp.version_of(id integer) RETURNS bigint STABLE LANGUAGE sql
  AS 'SELECT version FROM pg_temp.places WHERE event_id = id';
CREATE FUNCTION pg_temp.is_legacy(id integer) RETURNS boolean STABLE LANGUAGE sql
  AS 'SELECT legacy FROM pg_temp.places WHERE event_id = id';
CREATE FUNCTION pg_temp.head(id integer) RETURNS pg_temp.heads STABLE LANGUAGE sql
  AS 'SELECT * FROM pg_temp.heads WHERE etl_context_id = id';

-- What the original did to keep its projections, and what of its own stands on the columns that change.
DROP TRIGGER IF EXISTS event_store_etl_context_status_update_trigger ON data_manager.event_store;
DROP TRIGGER IF EXISTS etl_contexts_modified_timestamp_trigger ON data_manager.etl_contexts;
DROP FUNCTION IF EXISTS data_manager.event_store_etl_context_status_update_fn();
DROP VIEW IF EXISTS data_manager.dama_task_queue;
DROP INDEX IF EXISTS data_manager.event_store_etl_ctx_idx;

DO $$
  DECLARE
    statement  text;
  BEGIN
    FOR statement IN
      SELECT format('DROP FUNCTION %s', oid::regprocedure)
        FROM pg_proc WHERE pronamespace = 'data_manager'::regnamespace AND proname = 'show_etl_context_tree'
      UNION ALL
      SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname)
        FROM pg_constraint
        WHERE contype = 'f'
          AND conrelid = ANY (ARRAY['data_manager.etl_contexts', 'data_manager.event_store']::regclass[])
          AND confrelid = ANY (ARRAY['data_manager.etl_contexts', 'data_manager.event_store', 'data_manager.sources',
                                     'data_manager.etl_statuses']::regclass[])
    LOOP
      EXECUTE statement;
    END LOOP;
  END
$$;

-- Each table is written once, by the change of its types: no trigger of anybody's fires for it, and no dead row is left.
-- The event_uuids come from one that is drawn here, for drawing one a row takes longer than all the rest.
SELECT set_config('damad.upgrade', gen_random_uuid()::text, true);

ALTER TABLE data_manager.event_store
  ADD COLUMN version bigint,
  ADD COLUMN legacy boolean,
  ADD COLUMN event_uuid uuid;

ALTER TABLE data_manager.event_store
  ALTER COLUMN event_id DROP DEFAULT,
  ALTER COLUMN event_id TYPE bigint,
  ALTER COLUMN etl_context_id TYPE bigint,
  ALTER COLUMN version TYPE bigint USING pg_temp.version_of(event_id),
  ALTER COLUMN version SET NOT NULL,
  ALTER COLUMN legacy TYPE boolean USING pg_temp.is_legacy(event_id),
  ALTER COLUMN legacy SET NOT NULL,
  ALTER COLUMN legacy SET DEFAULT false,
  ALTER COLUMN event_uuid TYPE uuid USING md5(current_setting('damad.upgrade') || event_id)::uuid,
  ALTER COLUMN event_uuid SET NOT NULL,
  ALTER COLUMN _created_timestamp DROP DEFAULT,
  ALTER COLUMN _created_timestamp TYPE timestamptz,
  ADD COLUMN fence bigint,
  ADD COLUMN txid xid8 NOT NULL DEFAULT '0';

ALTER TABLE data_manager.event_store
  ALTER COLUMN txid DROP DEFAULT;

ALTER TABLE data_manager.etl_contexts
  ADD COLUMN IF NOT EXISTS etl_task_id text,
  ADD COLUMN version bigint;

ALTER TABLE data_manager.etl_contexts
  ALTER COLUMN etl_context_id TYPE bigint,
  ALTER COLUMN parent_context_id TYPE bigint,
  ALTER COLUMN source_id TYPE bigint,
  ALTER COLUMN initial_event_id TYPE bigint USING (pg_temp.head(etl_context_id)).initial_event_id,
  ALTER COLUMN latest_event_id TYPE bigint USING (pg_temp.head(etl_context_id)).latest_event_id,
  ALTER COLUMN version TYPE bigint USING coalesce((pg_temp.head(etl_context_id)).version, 0),
  ALTER COLUMN version SET NOT NULL,
  ALTER COLUMN version SET DEFAULT 0,
  ALTER COLUMN _created_timestamp DROP DEFAULT,
  ALTER COLUMN _created_timestamp TYPE timestamptz,
  ALTER COLUMN _created_timestamp SET DEFAULT clock_timestamp(),
  ALTER COLUMN _modified_timestamp DROP DEFAULT,
  ALTER COLUMN _modified_timestamp TYPE timestamptz
    USING least(greatest(_modified_timestamp, (pg_temp.head(etl_context_id)).written_at), localtimestamp),
  ALTER COLUMN _modified_timestamp SET DEFAULT clock_timestamp();

-- The status only where it is not what the events say: its type does not change, so others' views may stand on it.
WITH said AS (
  SELECT c.etl_context_id,
         CASE
           WHEN e.type LIKE '%:FINAL' THEN 'DONE'
           WHEN e.type LIKE '%:ERROR' THEN 'ERROR'
           WHEN e.type IS NOT NULL    THEN 'OPEN'
         END AS etl_status
    FROM data_manager.etl_contexts c LEFT JOIN data_manager.event_store e ON e.event_id = c.latest_event_id
)
UPDATE data_manager.etl_contexts c
  SET etl_status = said.etl_status
  FROM said
  WHERE said.etl_context_id = c.etl_context_id AND said.etl_status IS DISTINCT FROM c.etl_status;
SET CONSTRAINTS ALL IMMEDIATE;

ALTER TABLE data_manager.etl_contexts
  ADD FOREIGN KEY (parent_context_id) REFERENCES data_manager.etl_contexts (etl_context_id),
  ADD FOREIGN KEY (source_id) REFERENCES data_manager.sources (source_id);

-- Up to here the original wrote. (The same table as in ../056_original_events.sql.)
CREATE TABLE data_manager.original_events (
  up_to_event_id  bigint NOT NULL
);
INSERT INTO data_manager.original_events SELECT coalesce(max(event_id), 0) FROM data_manager.event_store;

-- The sequences go on after the highest id, whoever gave it, and beyond 32 bits.
CREATE SEQUENCE IF NOT EXISTS data_manager.event_store_event_id_seq;

DO $$
  DECLARE
    name     text;
    highest  bigint;
  BEGIN
    FOR name, highest IN
      SELECT 'data_manager.event_store_event_id_seq', max(event_id) FROM data_manager.event_store
      UNION ALL
      SELECT pg_get_serial_sequence('data_manager.etl_contexts', 'etl_context_id'), max(etl_context_id)
        FROM data_manager.etl_contexts
    LOOP
      EXECUTE format('ALTER SEQUENCE %s AS bigint', name);
      EXECUTE format('SELECT setval(%L, %s) FROM %s WHERE last_value <= %2$s', name, coalesce(highest, 0), name);
    END LOOP;
  END
$$;

DROP FUNCTION pg_temp.version_of(integer), pg_temp.is_legacy(integer), pg_temp.head(integer);
ANALYZE data_manager.etl_contexts, data_manager.event_store;

-- The upgrade of a database that the original made, in place, first part: it holds every table that it will change, and
-- refuses what stands in its way, before it changes anything.

-- All locks at once and in one order, so that nobody who reads or writes can stop it half way. Also the tables whose
-- foreign keys point here: their keys are checked again when the ids become bigint.
DO $$
  DECLARE
    ours   CONSTANT regclass[] := ARRAY['data_manager.etl_contexts', 'data_manager.event_store']::regclass[];
    held   regclass;
  BEGIN
    FOR held IN
      SELECT unnest(ours)
      UNION SELECT conrelid FROM pg_constraint WHERE contype = 'f' AND confrelid = ANY (ours)
      UNION SELECT confrelid FROM pg_constraint WHERE contype = 'f' AND conrelid = ANY (ours)
      ORDER BY 1
    LOOP
      EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', held);
    END LOOP;
  END
$$;

-- Every column that the rest of the upgrade relies on.
DO $$
  DECLARE
    missing  text;
  BEGIN
    SELECT string_agg(needed, ', ') INTO missing
      FROM unnest(ARRAY[
          'etl_contexts.etl_context_id', 'etl_contexts.parent_context_id', 'etl_contexts.source_id',
          'etl_contexts.etl_status', 'etl_contexts.initial_event_id', 'etl_contexts.latest_event_id',
          'etl_contexts._created_timestamp', 'etl_contexts._modified_timestamp',
          'event_store.event_id', 'event_store.etl_context_id', 'event_store.type', 'event_store.payload',
          'event_store.meta', 'event_store.error', 'event_store._created_timestamp', 'sources.source_id'
        ]) AS needed
      WHERE NOT EXISTS (
        SELECT FROM information_schema.columns
          WHERE table_schema = 'data_manager' AND table_name || '.' || column_name = needed
      );
    IF missing IS NOT NULL THEN
      RAISE EXCEPTION USING ERRCODE = 'DA010',
        MESSAGE = format('this is no database of the original: in data_manager there is no %s. Nothing was changed', missing);
    END IF;
  END
$$;

-- Postgres changes the type of no column that a view, a policy, or the head of a trigger uses, and drops no view or
-- function that something else uses. What of that is not the original's own is not ours to drop or to guess.
DO $$
  DECLARE
    blockers  text;
  BEGIN
    WITH changed (classid, objid, objsubid) AS (
      SELECT 'pg_class'::regclass, attrelid, attnum::integer
        FROM pg_attribute
        WHERE attrelid = 'data_manager.etl_contexts'::regclass
            AND attname IN ('etl_context_id', 'parent_context_id', 'source_id', 'initial_event_id', 'latest_event_id',
                            '_created_timestamp', '_modified_timestamp')
          OR attrelid = 'data_manager.event_store'::regclass
            AND attname IN ('event_id', 'etl_context_id', '_created_timestamp')
    ), dropped (classid, objid) AS (
      SELECT 'pg_class'::regclass, oid FROM pg_class WHERE oid = to_regclass('data_manager.dama_task_queue')
      UNION ALL
      SELECT 'pg_type'::regclass, reltype FROM pg_class WHERE oid = to_regclass('data_manager.dama_task_queue')
      UNION ALL
      SELECT 'pg_proc'::regclass, oid FROM pg_proc
        WHERE pronamespace = 'data_manager'::regnamespace
          AND proname IN ('show_etl_context_tree', 'event_store_etl_context_status_update_fn')
    ), dependents AS (
      SELECT d.classid, d.objid
        FROM pg_depend d
          JOIN changed c ON (d.refclassid, d.refobjid, d.refobjsubid) = (c.classid, c.objid, c.objsubid)
        WHERE d.classid = ANY (ARRAY['pg_rewrite', 'pg_trigger', 'pg_policy', 'pg_proc']::regclass[])
      UNION
      SELECT d.classid, d.objid
        FROM pg_depend d JOIN dropped c ON (d.refclassid, d.refobjid) = (c.classid, c.objid)
        WHERE d.deptype = 'n'
    ), named AS (
      SELECT CASE WHEN r.oid IS NULL THEN pg_describe_object(d.classid, d.objid, 0)
                  ELSE pg_describe_object('pg_class'::regclass, r.ev_class, 0) END AS name
        FROM dependents d
          LEFT JOIN pg_rewrite r ON (d.classid, d.objid) = ('pg_rewrite'::regclass, r.oid)
          LEFT JOIN pg_trigger t ON (d.classid, d.objid) = ('pg_trigger'::regclass, t.oid)
        WHERE r.ev_class IS DISTINCT FROM to_regclass('data_manager.dama_task_queue')
          AND NOT EXISTS (SELECT FROM dropped p WHERE (p.classid, p.objid) = (d.classid, d.objid))
          AND coalesce(t.tgname NOT IN ('event_store_etl_context_status_update_trigger',
                                        'etl_contexts_modified_timestamp_trigger'), true)
    )
      SELECT string_agg(DISTINCT name, ', ') INTO blockers FROM named;
    IF blockers IS NOT NULL THEN
      RAISE EXCEPTION USING ERRCODE = 'DA010',
        MESSAGE = format('the upgrade would break what uses the original''s columns: %s. Drop it, migrate again, and '
                         'make it anew. Nothing was changed', blockers);
    END IF;
  END
$$;

-- Has whoever queues tasks with throttle come one after another, those with the same key: until the transaction ends, so that
-- each sees what the one before queued, also where that has ended by then and no unique index speaks of it. True if any of
-- these tasks has throttle. A thousand locks at most ("damt" in ASCII), in one order: a few keys share one.
CREATE OR REPLACE FUNCTION data_manager.hold_throttled(metas jsonb[])
  RETURNS boolean
  LANGUAGE plpgsql
  AS $$
    DECLARE
      locks  integer[] := ARRAY (
        SELECT DISTINCT hashtext(e.meta #>> '{__dama_task_manager__,singleton_key}') & 1023
          FROM unnest(metas) AS e (meta)
          WHERE e.meta #>> '{__dama_task_manager__,throttle}' IS NOT NULL
            AND e.meta #>> '{__dama_task_manager__,singleton_key}' IS NOT NULL
          ORDER BY 1
      );
    BEGIN
      FOR i IN 1 .. cardinality(locks) LOOP
        PERFORM pg_advisory_xact_lock(1684106612, locks[i]);
      END LOOP;
      RETURN locks <> '{}';
    END
  $$;

-- The last task with a singleton_key, if it was queued less than so many seconds ago, whatever became of it; else NULL.
CREATE OR REPLACE FUNCTION data_manager.throttled_by(key text, seconds double precision)
  RETURNS bigint
  LANGUAGE plpgsql
  SET enable_seqscan = off
  AS $$
    DECLARE
      last  bigint;
      at    timestamptz;
    BEGIN
      SELECT t.etl_context_id, e._created_timestamp INTO last, at
        FROM data_manager.dama_tasks t JOIN data_manager.event_store e ON e.event_id = t.initial_event_id
        WHERE t.singleton_key = key
        ORDER BY t.initial_event_id DESC
        LIMIT 1;
      RETURN CASE WHEN at > clock_timestamp() - make_interval(secs => seconds) THEN last END;
    END
  $$;

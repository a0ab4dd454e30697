-- Queues one task from plain SQL and returns its etl_context_id: SELECT data_manager.queue_task('load.py', '{"file": "a"}').
-- It is queued if the caller's transaction commits. settings are those of docs/configuration.md, and parent_context_id,
-- source_id and meta. Of a key that another task has, it is that one's id (queue_tasks).
-- Where somebody queues a task with that key at this moment, it waits, and looks again. A transaction whose snapshot is older
-- than that task never sees it: there the unique index has the last word.
CREATE OR REPLACE FUNCTION data_manager.queue_task(worker text, payload jsonb DEFAULT NULL, settings jsonb DEFAULT '{}')
  RETURNS bigint
  LANGUAGE plpgsql
  AS $$
    DECLARE
      given   jsonb := coalesce(settings, '{}');
      meta    jsonb := coalesce(nullif(given -> 'meta', 'null'), '{}') || jsonb_build_object('__dama_task_manager__',
                         given - '{parent_context_id,source_id,meta}'::text[] || jsonb_build_object('worker', worker));
      broken  text;
    BEGIN
      FOR turn IN 1 .. 10 LOOP
        BEGIN
          RETURN (
            SELECT q.etl_context_id
              FROM data_manager.queue_tasks(ARRAY[(given ->> 'parent_context_id')::bigint],
                                            ARRAY[(given ->> 'source_id')::bigint], ARRAY[':INITIAL'], ARRAY[payload],
                                            ARRAY[meta], ARRAY[NULL::uuid]) AS q
          );
        EXCEPTION WHEN unique_violation THEN
          GET STACKED DIAGNOSTICS broken = CONSTRAINT_NAME;
          IF turn = 10 OR broken NOT IN ('dama_tasks_idempotency_key', 'dama_tasks_singleton_key') THEN
            RAISE;
          END IF;
        END;
      END LOOP;
    END
  $$;

-- Makes sure that a run whose lease is over can write nothing more, and holds its context for whoever calls, who says
-- in the same transaction what became of the attempt. Refused where the lease was renewed or the task went on.
-- The sessions of the old run are ended before the context's row is waited for: one of them may hold it.
CREATE OR REPLACE FUNCTION data_manager.take_over(id bigint, old_fence bigint)
  RETURNS void
  LANGUAGE plpgsql
  AS $$
    BEGIN
      FOR turn IN 1 .. 2 LOOP
        IF NOT EXISTS (
          SELECT FROM data_manager.leases
            WHERE etl_context_id = id AND fence = old_fence AND until < clock_timestamp()
        ) THEN
          PERFORM data_manager.refuse('DA002', format('the lease of context %s with fence %s is not over', id, old_fence),
            jsonb_build_object('etl_context_id', id, 'fence', old_fence));
        END IF;
        IF turn = 1 THEN
          PERFORM pg_terminate_backend(pid)
            FROM pg_stat_activity
            WHERE datname = current_database() AND application_name LIKE format('damad/%s/%%', id);
          PERFORM FROM data_manager.etl_contexts WHERE etl_context_id = id FOR NO KEY UPDATE;
        END IF;
      END LOOP;
    END
  $$;

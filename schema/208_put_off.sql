-- Puts off the start of a task that waits for its time, until so many seconds from now unless that is earlier: a RELEASED
-- event, for that is what says when a task may run that nobody holds. False where it waits for its time no more.
CREATE OR REPLACE FUNCTION data_manager.put_off(id bigint, seconds double precision)
  RETURNS boolean
  LANGUAGE plpgsql
  AS $$
    DECLARE
      due  timestamptz;
    BEGIN
      PERFORM FROM data_manager.etl_contexts c WHERE c.etl_context_id = id FOR NO KEY UPDATE;
      SELECT t.run_at INTO due FROM data_manager.dama_tasks t
        WHERE t.etl_context_id = id AND t.state = 'scheduled' AND t.run_at > clock_timestamp();
      IF due IS NOT NULL THEN
        due := greatest(due, clock_timestamp() + make_interval(secs => seconds));
        INSERT INTO data_manager.event_store (etl_context_id, type, payload)
          VALUES (id, 'dama/task:RELEASED', jsonb_build_object('reason', 'debounced', 'run_at', due));
      END IF;
      RETURN due IS NOT NULL;
    END
  $$;

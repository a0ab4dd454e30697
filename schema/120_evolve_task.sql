-- Whether one of damad's own events says what its projection needs, in a form that Python folds to the same.
CREATE OR REPLACE FUNCTION data_manager.is_readable(kind text, payload jsonb)
  RETURNS boolean
  LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN CASE kind
    WHEN 'CLAIMED' THEN coalesce(payload ->> 'fence' ~ '^[0-9]{1,18}$', false)
      AND coalesce(payload ->> 'host_id' ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$', true)
    WHEN 'STARTED' THEN coalesce(payload ->> 'attempt' ~ '^[0-9]{1,9}$', false)
      AND coalesce(payload ->> 'pid' ~ '^[0-9]{1,18}$', true)
    WHEN 'RETRY' THEN coalesce(data_manager.is_moment(payload ->> 'run_at'), false)
    WHEN 'RELEASED' THEN coalesce(data_manager.is_moment(payload ->> 'run_at'), true)
    ELSE true
  END;

-- The task's row after an event whose transition was judged legal. Every value comes from the event itself,
-- so damad/model/lifecycle.py folds the same row out of the log (function evolve).
CREATE OR REPLACE FUNCTION data_manager.evolve_task(
    task        data_manager.dama_tasks,
    event       data_manager.event_store,
    kind        text,
    next_state  text
  )
  RETURNS data_manager.dama_tasks
  LANGUAGE plpgsql
  AS $$
    DECLARE
      payload  jsonb       := event.payload;
      created  timestamptz := event._created_timestamp;
    BEGIN
      task.state := next_state;

      CASE kind
        WHEN 'CLAIMED' THEN
          task.fence   := (payload ->> 'fence')::bigint;
          task.host_id := (payload ->> 'host_id')::uuid;
        WHEN 'STARTED' THEN
          task.attempt    := (payload ->> 'attempt')::integer;
          task.pid        := (payload ->> 'pid')::bigint;
          task.started_at := created;
          task.resumed    := false;
        WHEN 'PROGRESS' THEN
          task.progress := payload;
        WHEN 'ERROR' THEN
          task.error := payload;
          IF payload ->> 'kind' IN ('exit', 'signal', 'oom', 'lost') THEN
            task.crashes := task.crashes + 1;
          ELSE
            task.errors := task.errors + 1;
          END IF;
        WHEN 'RETRY' THEN
          task.run_at := (payload ->> 'run_at')::timestamptz;
        WHEN 'RELEASED' THEN
          task.run_at := coalesce((payload ->> 'run_at')::timestamptz, created);
        WHEN 'RESUMED' THEN
          task.run_at  := created;
          task.resumed := true;
        WHEN 'REQUEUED' THEN
          task.run_at      := created;
          task.errors      := 0;
          task.crashes     := 0;
          task.error       := NULL;
          task.finished_at := NULL;
          task.resumed     := false;
        WHEN 'FINAL' THEN
          task.error := NULL;
        ELSE NULL;
      END CASE;

      IF task.state = 'queued' AND task.run_at > created THEN
        task.state := 'scheduled';
      END IF;
      IF task.state NOT IN ('running', 'cancelling') THEN
        task.pid := NULL;
      END IF;
      IF task.state IN ('done', 'failed', 'cancelled') THEN
        task.finished_at := created;
      END IF;
      RETURN task;
    END
  $$;

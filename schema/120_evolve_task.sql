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
    WHEN 'WAITING' THEN coalesce(data_manager.is_moment(payload ->> 'until'), true)
      AND coalesce(payload ->> 'after_version' ~ '^[0-9]{1,18}$', payload ->> 'event' IS NULL)
      AND coalesce(payload ->> 'children' ~ '^\[([0-9]{1,18}(, [0-9]{1,18})*)?\]$', true)
    ELSE true
  END;

-- The task's row after an event whose transition was judged legal. Every value comes from the event itself,
-- so damad/model/lifecycle.py folds the same row out of the log (function evolve).
-- One SELECT, as new_task is, so that Postgres makes both part of the statement that asks them of many tasks.
CREATE OR REPLACE FUNCTION data_manager.evolve_task(
    task        data_manager.dama_tasks,
    kind        text,
    next_state  text,
    payload     jsonb,
    created     timestamptz
  )
  RETURNS SETOF data_manager.dama_tasks
  LANGUAGE sql STABLE
  AS $$
    SELECT
        task.etl_context_id,
        task.worker,
        task.queue,
        task.priority,
        task.settings,
        task.idempotency_key,
        settled.state,
        task.initial_event_id,
        due.run_at,
        task.home_host_id,
        CASE kind WHEN 'CLAIMED' THEN (payload ->> 'host_id')::uuid ELSE task.host_id END,
        CASE kind WHEN 'CLAIMED' THEN (payload ->> 'fence')::bigint ELSE task.fence END,
        CASE kind WHEN 'STARTED' THEN (payload ->> 'attempt')::integer ELSE task.attempt END,
        CASE WHEN settled.state NOT IN ('running', 'cancelling') THEN NULL
             WHEN kind = 'STARTED' THEN (payload ->> 'pid')::bigint
             ELSE task.pid END,
        CASE WHEN kind = 'REQUEUED' THEN 0 ELSE task.errors + (kind = 'ERROR' AND NOT crash.was_it)::integer END,
        CASE WHEN kind = 'REQUEUED' THEN 0 ELSE task.crashes + (kind = 'ERROR' AND crash.was_it)::integer END,
        CASE WHEN kind IN ('STARTED', 'REQUEUED') THEN false
             ELSE task.resumed OR kind = 'RESUMED'
               OR kind = 'RELEASED' AND task.state = 'running' AND coalesce(payload -> 'keeps_attempt' = 'true', false) END,
        CASE kind WHEN 'STARTED' THEN created ELSE task.started_at END,
        CASE WHEN settled.state IN ('done', 'failed', 'cancelled') THEN created
             WHEN kind = 'REQUEUED' THEN NULL
             ELSE task.finished_at END,
        CASE kind WHEN 'PROGRESS' THEN payload ELSE task.progress END,
        CASE WHEN kind = 'ERROR' THEN payload WHEN kind IN ('REQUEUED', 'FINAL') THEN NULL ELSE task.error END,
        task.schedule,
        CASE WHEN settled.state = 'waiting' THEN CASE kind WHEN 'WAITING' THEN payload ELSE task.waits_for END END,
        CASE WHEN kind IN ('STARTED', 'REQUEUED') THEN NULL ELSE task.start_by END,
        task.singleton_key
      FROM (
        SELECT CASE kind
          WHEN 'RETRY'    THEN data_manager.moment(payload ->> 'run_at')
          WHEN 'RELEASED' THEN coalesce(data_manager.moment(payload ->> 'run_at'), created)
          WHEN 'WAITING'  THEN coalesce(data_manager.moment(payload ->> 'until'), task.run_at)
          WHEN 'RESUMED'  THEN created
          WHEN 'REQUEUED' THEN created
          ELSE task.run_at END AS run_at
      ) AS due, LATERAL (
        SELECT CASE WHEN next_state = 'queued' AND due.run_at > created THEN 'scheduled' ELSE next_state END AS state
      ) AS settled, LATERAL (
        SELECT coalesce(payload ->> 'kind' IN ('exit', 'signal', 'oom', 'lost'), false) AS was_it
      ) AS crash
  $$;

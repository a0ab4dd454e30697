-- The row of a new task, out of the settings in its :INITIAL event, which fit (unfit_setting).
-- worker_path is what the original's clients wrote in place of worker.
CREATE OR REPLACE FUNCTION data_manager.new_task(id bigint, event_id bigint, settings jsonb, created timestamptz)
  RETURNS SETOF data_manager.dama_tasks
  LANGUAGE sql STABLE
  AS $$
    SELECT
      id,
      coalesce(settings ->> 'worker', settings ->> 'worker_path'),
      coalesce(settings ->> 'queue', 'default'),
      coalesce((settings ->> 'priority')::integer, 0),
      settings,
      settings ->> 'idempotency_key',
      'queued',
      event_id,
      CASE WHEN settings ?| '{start_after,debounce}'
           THEN greatest(coalesce(data_manager.moment_or_after(settings ->> 'start_after', created), created),
                         data_manager.moment_or_after(settings ->> 'debounce', created))
           ELSE created END,
      (settings ->> 'dama_host_id')::uuid,
      NULL::uuid,         -- host_id
      0::bigint,          -- fence
      0,                  -- attempt
      NULL::bigint,       -- pid
      0,                  -- errors
      0,                  -- crashes
      false,              -- resumed
      NULL::timestamptz,  -- started_at
      NULL::timestamptz,  -- finished_at
      NULL::jsonb,        -- progress
      NULL::jsonb,        -- error
      CASE jsonb_typeof(settings -> 'schedule') WHEN 'string' THEN settings ->> 'schedule' END,
      NULL::jsonb,        -- waits_for
      CASE WHEN settings ->> 'start_by' IS NOT NULL
           THEN data_manager.moment_or_after(settings ->> 'start_by', created) END,
      settings ->> 'singleton_key'
  $$;

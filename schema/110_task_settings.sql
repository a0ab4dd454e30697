-- The row of a new task, out of the settings in its :INITIAL event. Only what the database itself
-- schedules by is judged here; the rest is kept as it is for whoever runs the task.
-- worker_path is what the original's clients wrote in place of worker.
CREATE OR REPLACE FUNCTION data_manager.new_task(
    initial_event data_manager.event_store
  )
  RETURNS data_manager.dama_tasks
  LANGUAGE plpgsql
  AS $$
    DECLARE
      settings  jsonb := initial_event.meta -> '__dama_task_manager__';
      task      data_manager.dama_tasks;
      start     jsonb := settings -> 'start_after';
    BEGIN
      PERFORM data_manager.judge_settings(settings);
      task.worker           := coalesce(settings ->> 'worker', settings ->> 'worker_path');
      task.etl_context_id   := initial_event.etl_context_id;
      task.initial_event_id := initial_event.event_id;
      task.settings         := settings;
      task.state            := 'queued';
      task.queue            := coalesce(settings ->> 'queue', 'default');
      task.priority         := coalesce((settings ->> 'priority')::integer, 0);
      task.idempotency_key  := settings ->> 'idempotency_key';
      task.home_host_id     := (settings ->> 'dama_host_id')::uuid;
      task.run_at           := initial_event._created_timestamp;
      IF data_manager.is_moment(start #>> '{}') THEN
        task.run_at := (start #>> '{}')::timestamptz;
      ELSIF jsonb_typeof(start) <> 'null' THEN
        task.run_at := task.run_at + make_interval(secs => data_manager.duration_seconds((start #>> '{}')));
      END IF;
      IF NOT isfinite(task.run_at) OR extract(year FROM task.run_at AT TIME ZONE 'UTC') NOT BETWEEN 2 AND 9998 THEN
        PERFORM data_manager.refuse('DA007', 'start_after is not within the years 2 to 9998',
          jsonb_build_object('setting', 'start_after'));
      END IF;

      task.fence   := 0;
      task.attempt := 0;
      task.errors  := 0;
      task.crashes := 0;
      task.resumed := false;
      RETURN task;

    EXCEPTION
      WHEN data_exception THEN
        PERFORM data_manager.refuse('DA007', 'the task settings cannot be read: ' || SQLERRM, '{}');
    END
  $$;

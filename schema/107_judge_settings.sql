-- Refuses task settings that the database itself could not schedule by, naming the first that does not fit.
-- The rest is for whoever runs the task to read, and kept as it is.
CREATE OR REPLACE FUNCTION data_manager.judge_settings(settings jsonb)
  RETURNS void
  LANGUAGE plpgsql
  AS $$
    DECLARE
      wrong  text;
    BEGIN
      IF jsonb_typeof(settings) <> 'object' THEN
        PERFORM data_manager.refuse('DA007', 'task settings are an object', '{}');
      END IF;
      SELECT given.name INTO wrong
        FROM jsonb_each(settings) AS given (name, value), LATERAL (SELECT given.value #>> '{}') AS plain (value)
        WHERE CASE
          WHEN jsonb_typeof(given.value) = 'null' THEN false
          WHEN given.name IN ('worker', 'worker_path', 'queue', 'idempotency_key', 'dama_host_id')
            THEN jsonb_typeof(given.value) <> 'string' OR plain.value = ''
          WHEN given.name = 'priority' THEN plain.value !~ '^-?[0-9]{1,10}$'
          WHEN given.name = 'retry_limit'
            THEN CASE WHEN plain.value ~ '^[0-9]{1,10}$' THEN plain.value::bigint > 2147483647 ELSE true END
          WHEN given.name = 'start_after' THEN CASE jsonb_typeof(given.value)
            WHEN 'number' THEN plain.value::numeric NOT BETWEEN 0 AND 3162240000
            WHEN 'string' THEN NOT data_manager.is_moment(plain.value)
              AND coalesce(data_manager.duration_seconds(plain.value) NOT BETWEEN 0 AND 3162240000, true)
            ELSE true END
        END
        LIMIT 1;
      IF wrong IS NOT NULL THEN
        PERFORM data_manager.refuse('DA007', format('the task setting %s does not fit: %s', wrong, settings -> wrong),
          jsonb_build_object('setting', wrong));
      ELSIF coalesce(settings ->> 'worker', settings ->> 'worker_path') IS NULL THEN
        PERFORM data_manager.refuse('DA007', 'a task needs a worker', jsonb_build_object('setting', 'worker'));
      END IF;
    END
  $$;

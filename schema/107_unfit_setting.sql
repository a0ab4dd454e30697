-- Whether a setting is a text with something in it, or not given.
CREATE OR REPLACE FUNCTION data_manager.is_text(setting jsonb)
  RETURNS boolean
  LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN setting IS NULL OR CASE jsonb_typeof(setting) WHEN 'null' THEN true WHEN 'string' THEN setting <> '""' ELSE false END;

-- Whether a setting is a whole number between two others, or not given.
CREATE OR REPLACE FUNCTION data_manager.is_whole(setting text, lowest bigint, highest bigint)
  RETURNS boolean
  LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN setting IS NULL OR CASE WHEN setting ~ '^-?[0-9]{1,10}$' THEN setting::bigint BETWEEN lowest AND highest ELSE false END;

-- Whether a setting is a time or a duration of at most a hundred years, or not given.
CREATE OR REPLACE FUNCTION data_manager.is_start(setting jsonb)
  RETURNS boolean
  LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN setting IS NULL OR CASE jsonb_typeof(setting)
    WHEN 'null' THEN true
    WHEN 'number' THEN setting::numeric BETWEEN 0 AND 3162240000
    WHEN 'string' THEN data_manager.is_moment(setting #>> '{}')
      OR coalesce(data_manager.duration_seconds(setting #>> '{}') BETWEEN 0 AND 3162240000, false)
    ELSE false
  END;

-- Whether a setting is a duration of at most a hundred years, or not given.
CREATE OR REPLACE FUNCTION data_manager.is_duration(setting jsonb)
  RETURNS boolean
  LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN data_manager.is_start(setting) AND NOT coalesce(data_manager.is_moment(setting #>> '{}'), false);

-- Whether a text is a UUID, eight, four, four, four and twelve digits. (One regular expression of all that is built anew, a
-- state for each character, whenever it is asked: five times as dear.)
CREATE OR REPLACE FUNCTION data_manager.is_uuid(setting text)
  RETURNS boolean
  LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN setting LIKE '________-____-____-____-____________' AND setting NOT LIKE '%-%-%-%-%-%' AND setting !~ '[^0-9a-fA-F-]';

-- As unfit_setting, of those that few tasks have. A function that is called and not made part of the statement that asks: who
-- has none of them does not pay for what they take.
CREATE OR REPLACE FUNCTION data_manager.unfit_rare_setting(settings jsonb)
  RETURNS text
  LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
  AS $$
    BEGIN
      RETURN CASE
        WHEN NOT data_manager.is_text(settings -> 'idempotency_key')                      THEN 'idempotency_key'
        WHEN NOT data_manager.is_text(settings -> 'concurrency_key')
          OR length(settings ->> 'concurrency_key') > 255                                 THEN 'concurrency_key'
        WHEN NOT data_manager.is_whole(settings ->> 'priority', -2147483648, 2147483647)  THEN 'priority'
        WHEN NOT data_manager.is_whole(settings ->> 'retry_limit', 0, 2147483647)         THEN 'retry_limit'
        WHEN settings ->> 'weight' !~ '^[1-9][0-9]{0,8}$'                                 THEN 'weight'
        WHEN NOT data_manager.is_start(settings -> 'start_after')                         THEN 'start_after'
        WHEN NOT data_manager.is_start(settings -> 'start_by')                            THEN 'start_by'
        WHEN NOT data_manager.is_text(settings -> 'singleton_key')                        THEN 'singleton_key'
        WHEN NOT data_manager.is_text(settings -> 'on_failure')                           THEN 'on_failure'
        WHEN NOT data_manager.is_duration(settings -> 'debounce')                         THEN 'debounce'
        WHEN NOT data_manager.is_duration(settings -> 'throttle')                         THEN 'throttle'
        WHEN (settings ->> 'debounce' IS NOT NULL OR settings ->> 'throttle' IS NOT NULL)
          AND settings ->> 'singleton_key' IS NULL                                        THEN 'singleton_key'
      END;
    END
  $$;

-- The first of a task's settings that the database itself could not schedule by; NULL where all fit.
-- The rest is for whoever runs the task to read, and kept as it is.
CREATE OR REPLACE FUNCTION data_manager.unfit_setting(settings jsonb)
  RETURNS text
  LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN CASE
    WHEN jsonb_typeof(settings) <> 'object'                                               THEN '__dama_task_manager__'
    WHEN NOT data_manager.is_text(settings -> 'worker')                                   THEN 'worker'
    WHEN NOT data_manager.is_text(settings -> 'worker_path')                              THEN 'worker_path'
    WHEN coalesce(settings ->> 'worker', settings ->> 'worker_path') IS NULL              THEN 'worker'
    WHEN NOT data_manager.is_text(settings -> 'queue')                                    THEN 'queue'
    WHEN NOT data_manager.is_text(settings -> 'dama_host_id')
      OR NOT data_manager.is_uuid(settings ->> 'dama_host_id')                            THEN 'dama_host_id'
    WHEN settings ?| '{idempotency_key,concurrency_key,priority,retry_limit,weight,start_after,start_by,singleton_key,on_failure,debounce,throttle}'
                                                        THEN data_manager.unfit_rare_setting(settings)
  END;

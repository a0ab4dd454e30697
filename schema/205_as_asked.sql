-- The meta of an :INITIAL event as its task was asked for: without who asked and the host that was asked, and without the
-- settings that came from the queue's defaults, which may be others when the same is asked for again.
CREATE OR REPLACE FUNCTION data_manager.as_asked(meta jsonb)
  RETURNS jsonb
  LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN CASE jsonb_typeof(meta #> '{__dama_task_manager__,defaults}')
    WHEN 'array' THEN jsonb_set(data_manager.as_sent(meta), '{__dama_task_manager__}',
      (meta -> '__dama_task_manager__') - '{dama_host_id,defaults}'::text[]
        - ARRAY (SELECT jsonb_array_elements_text(meta #> '{__dama_task_manager__,defaults}')))
    ELSE data_manager.as_sent(meta) #- '{__dama_task_manager__,dama_host_id}'
  END;

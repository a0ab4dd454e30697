-- What a type means to the lifecycle: one of damad's own kinds, INITIAL, FINAL, EVENT_ERROR or EVENT.
-- No type may pass for a kind that is no event of damad's own.
CREATE OR REPLACE FUNCTION data_manager.event_kind(type text)
  RETURNS text
  LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN CASE
    WHEN type LIKE '%:INITIAL'   THEN 'INITIAL'
    WHEN type LIKE '%:FINAL'     THEN 'FINAL'
    WHEN type IN ('dama/task:EVENT', 'dama/task:EVENT_ERROR', 'dama/task:TASK_INITIAL') THEN type
    WHEN type LIKE 'dama/task:%' THEN substr(type, 11)
    WHEN type LIKE '%:ERROR'     THEN 'EVENT_ERROR'
    ELSE 'EVENT'
  END;

-- The original's status after an event: DONE after :FINAL, ERROR after :ERROR and after a task's end in failure.
CREATE OR REPLACE FUNCTION data_manager.etl_status_after(type text)
  RETURNS text
  LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN CASE
    WHEN type LIKE '%:FINAL' THEN 'DONE'
    WHEN type LIKE '%:ERROR' OR type IN ('dama/task:FAILED', 'dama/task:CANCELLED') THEN 'ERROR'
    ELSE 'OPEN'
  END;

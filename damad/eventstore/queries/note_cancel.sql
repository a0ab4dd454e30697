-- Notes once that a task is to be cancelled, waiting for nobody, and wakes the schedulers.
WITH noted AS (
  INSERT INTO data_manager.cancel_intents (etl_context_id)
    SELECT $1::bigint WHERE NOT EXISTS (SELECT FROM data_manager.cancel_intents WHERE etl_context_id = $1)
)
SELECT pg_notify('DAMAD_TASK', '')

-- The rows of archived contexts, parents first; what they say of their events comes with restore_contexts.
-- $1: an array of them as JSON
INSERT INTO data_manager.etl_contexts (
    etl_context_id, parent_context_id, source_id, etl_task_id, _created_timestamp, _modified_timestamp
  )
  SELECT etl_context_id, parent_context_id, source_id, etl_task_id, _created_timestamp, _modified_timestamp
    FROM jsonb_populate_recordset(NULL::data_manager.etl_contexts, $1::text::jsonb)

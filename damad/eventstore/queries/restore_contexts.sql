-- What archived contexts say of their events, before those follow. $1: an array of them as JSON
UPDATE data_manager.etl_contexts c
  SET etl_status = a.etl_status, initial_event_id = a.initial_event_id, latest_event_id = a.latest_event_id,
      version = a.version
  FROM jsonb_populate_recordset(NULL::data_manager.etl_contexts, $1::text::jsonb) AS a
  WHERE c.etl_context_id = a.etl_context_id

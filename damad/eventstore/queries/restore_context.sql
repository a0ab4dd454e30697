UPDATE data_manager.etl_contexts
  SET etl_status = $2, initial_event_id = $3, latest_event_id = $4, version = $5
  WHERE etl_context_id = $1

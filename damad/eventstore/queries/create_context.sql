INSERT INTO data_manager.etl_contexts (parent_context_id, source_id)
  VALUES ($1, $2)
  RETURNING etl_context_id

SELECT * FROM data_manager.context_states WHERE etl_context_id = $1

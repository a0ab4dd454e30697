DELETE FROM data_manager.dama_tasks WHERE etl_context_id = $1

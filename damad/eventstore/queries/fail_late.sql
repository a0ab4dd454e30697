SELECT etl_context_id, start_by FROM data_manager.fail_late($1, $2)

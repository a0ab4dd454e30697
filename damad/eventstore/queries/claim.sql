SELECT claim_tasks AS etl_context_id FROM data_manager.claim_tasks($1, $2, $3, $4, $5, $6, $7)

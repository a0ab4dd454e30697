SELECT data_manager.claim_task($1, $2, $3, $4)

-- Whether somebody wants this task cancelled and could not say so in the log yet.
SELECT EXISTS (SELECT FROM data_manager.cancel_intents WHERE etl_context_id = $1) AS wanted

-- An event of somebody who knows only SQL: the context $1, its type $2, its payload $3.
INSERT INTO data_manager.event_store (etl_context_id, type, payload) VALUES ($1, $2, $3)

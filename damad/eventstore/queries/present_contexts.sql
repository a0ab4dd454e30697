-- Those of some contexts that are there. $1: these contexts
SELECT etl_context_id FROM data_manager.etl_contexts WHERE etl_context_id = ANY ($1::bigint[])

-- Contexts, locked as an append locks them. $1: these
SELECT FROM data_manager.etl_contexts
  WHERE etl_context_id = ANY ($1::bigint[])
  ORDER BY etl_context_id
  FOR NO KEY UPDATE

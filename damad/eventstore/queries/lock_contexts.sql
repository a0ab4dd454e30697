-- A slice of the contexts, locked as an append locks them. $1: after this id · $2: at most
SELECT etl_context_id
  FROM data_manager.etl_contexts
  WHERE etl_context_id > $1
  ORDER BY etl_context_id
  LIMIT $2
  FOR NO KEY UPDATE

-- $1 contexts, $2 how many events each of them gets, $3 their payload. As somebody who knows only SQL would do it.
INSERT INTO data_manager.event_store (etl_context_id, type, payload)
  SELECT etl_context_id, ':UPDATE', $3 FROM unnest($1::bigint[]) AS given (etl_context_id), generate_series(1, $2)

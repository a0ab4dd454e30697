-- Events as lines of an archive, context by context. No value and the value null are two things. $1: of these contexts
SELECT jsonb_build_object('event', to_jsonb(e) - array_remove(ARRAY[
         'txid', 'legacy',
         CASE WHEN e.payload IS NULL THEN 'payload' END,
         CASE WHEN e.meta IS NULL THEN 'meta' END
       ], NULL))::text AS line
  FROM data_manager.event_store e
  WHERE e.etl_context_id = ANY ($1::bigint[])
  ORDER BY e.etl_context_id, e.version

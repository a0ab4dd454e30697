-- Lets the sequences pass ids that another database gave out. $1: of a context · $2: of an event
SELECT setval(s.name, s.given)
  FROM (VALUES
    (pg_get_serial_sequence('data_manager.etl_contexts', 'etl_context_id')::regclass, $1::bigint),
    ('data_manager.event_store_event_id_seq'::regclass, $2::bigint)
  ) AS s (name, given)
  WHERE s.given > coalesce(pg_sequence_last_value(s.name), 0)

-- Archived events as they were, in a transaction of today: the feed shows them again. $1: an array of them as JSON
INSERT INTO data_manager.event_store (
    event_id, etl_context_id, version, event_uuid, type, payload, meta, error, fence, txid, _created_timestamp
  )
  SELECT e.event_id, e.etl_context_id, e.version, e.event_uuid, e.type, line -> 'payload', line -> 'meta', e.error,
         e.fence, pg_current_xact_id(), e._created_timestamp
    FROM jsonb_array_elements($1::text::jsonb) AS line,
      jsonb_populate_record(NULL::data_manager.event_store, line - '{payload,meta}'::text[]) AS e

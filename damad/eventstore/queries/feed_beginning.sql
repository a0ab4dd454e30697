-- Everything that snapshot $1 sees, in the order of ids. $2: after this event · $3: at most
SELECT e.event_id, e.etl_context_id, e.version, e.event_uuid, e.type, e.payload, e.meta, e.error, e._created_timestamp
  FROM data_manager.event_store e
  WHERE e.event_id > $2
    AND (pg_visible_in_snapshot(e.txid, $1::text::pg_snapshot)
      OR e.event_id <= (SELECT max(up_to_event_id) FROM data_manager.feed_epochs))
  ORDER BY e.event_id
  LIMIT $3

-- Everything that snapshot $1 sees, whose last event is $2, in the order of ids. $3: after this event · $4: at most
SELECT e.event_id, e.etl_context_id, e.version, e.event_uuid, e.type, e.payload, e.meta, e.error, e._created_timestamp
  FROM data_manager.event_store e
  WHERE e.event_id > $3
    AND e.event_id <= $2
    AND (pg_visible_in_snapshot(e.txid, $1::text::pg_snapshot)
      OR e.event_id <= (SELECT max(up_to_event_id) FROM data_manager.feed_epochs))
  ORDER BY e.event_id
  LIMIT $4

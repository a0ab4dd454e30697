-- What snapshot $2 sees and snapshot $1 did not, in the order of ids. $3: after this event · $4: at most
-- Only transactions that were running in $1 or began later can have made it: those the index finds.
SELECT e.event_id, e.etl_context_id, e.version, e.event_uuid, e.type, e.payload, e.meta, e.error, e._created_timestamp
  FROM data_manager.event_store e
  WHERE (e.txid >= pg_snapshot_xmax($1::text::pg_snapshot)
      OR e.txid = ANY (ARRAY (SELECT pg_snapshot_xip($1::text::pg_snapshot))))
    AND pg_visible_in_snapshot(e.txid, $2::text::pg_snapshot)
    AND e.event_id > greatest($3, (SELECT max(up_to_event_id) FROM data_manager.feed_epochs))
  ORDER BY e.event_id
  LIMIT $4

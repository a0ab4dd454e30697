-- What snapshot $3 sees, whose last event is $4, and snapshot $1 did not, whose last event was $2, in the order of ids.
-- $5: after this event · $6: at most
-- What snapshot $1 did not see has a higher id than its last event, or was made by a transaction that was running then:
-- one that it lists, or that was begun after the last one that had ended. Those that are late are looked for among all
-- that was written since, for they may be anywhere there; they are shown first, and once they are, nobody looks again.
WITH late AS MATERIALIZED (
  SELECT e.event_id FROM data_manager.event_store e
    WHERE $5::bigint < $2::bigint
      AND (e.txid >= pg_snapshot_xmax($1::text::pg_snapshot)
        OR e.txid = ANY (ARRAY (SELECT pg_snapshot_xip($1::text::pg_snapshot))))
      AND e.event_id <= $2
      AND e.event_id > greatest($5, (SELECT max(up_to_event_id) FROM data_manager.feed_epochs))
      AND pg_visible_in_snapshot(e.txid, $3::text::pg_snapshot)
), new AS (
  SELECT e.event_id FROM data_manager.event_store e
    WHERE e.event_id > greatest($2, $5)
      AND e.event_id <= $4
      AND pg_visible_in_snapshot(e.txid, $3::text::pg_snapshot)
    ORDER BY e.event_id
    LIMIT $6
)
SELECT e.event_id, e.etl_context_id, e.version, e.event_uuid, e.type, e.payload, e.meta, e.error, e._created_timestamp
  FROM (SELECT event_id FROM late UNION ALL SELECT event_id FROM new) AS unseen
    JOIN data_manager.event_store e USING (event_id)
  ORDER BY e.event_id
  LIMIT $6

-- What snapshot $3 sees, whose last event is $4, and snapshot $1 did not, whose last event was $2, in the order of ids.
-- $5: after this event · $6: at most
-- What snapshot $1 did not see has a higher id than its last event, or was made by a transaction that was running then:
-- one that it lists, or that was begun after the last one that had ended. Those that are late are looked for among all
-- that was written since, for they may be anywhere there; they are shown first, and once they are, nobody looks again.
-- By their transactions and never by their ids (hence the + 0), of which nearly all are below $2. What one transaction
-- wrote long ago the planner expects of each: so one that is listed is looked up by itself, and each event too (OFFSET 0).
WITH late AS MATERIALIZED (
  SELECT e.event_id FROM data_manager.event_store e
    WHERE $5::bigint < $2::bigint
      AND e.txid >= pg_snapshot_xmax($1::text::pg_snapshot)
      AND e.txid < pg_snapshot_xmax($3::text::pg_snapshot)
      AND e.event_id + 0 <= $2
      AND pg_visible_in_snapshot(e.txid, $3::text::pg_snapshot)
  UNION ALL
  SELECT e.event_id
    FROM pg_snapshot_xip($1::text::pg_snapshot) AS running (txid)
      CROSS JOIN LATERAL (
        SELECT e.event_id FROM data_manager.event_store e WHERE e.txid = running.txid AND e.event_id + 0 <= $2 OFFSET 0
      ) AS e
    WHERE $5 < $2
      AND pg_visible_in_snapshot(running.txid, $3::text::pg_snapshot)
), new AS (
  SELECT e.event_id FROM data_manager.event_store e
    WHERE e.event_id > greatest($2, $5)
      AND e.event_id <= $4
      AND pg_visible_in_snapshot(e.txid, $3::text::pg_snapshot)
    ORDER BY e.event_id
    LIMIT $6
), unseen AS (
  SELECT event_id FROM late
    WHERE event_id > greatest($5, (SELECT max(up_to_event_id) FROM data_manager.feed_epochs))
  UNION ALL
  SELECT event_id FROM new
  ORDER BY event_id
  LIMIT $6
)
SELECT e.*
  FROM unseen CROSS JOIN LATERAL (
    SELECT e.event_id, e.etl_context_id, e.version, e.event_uuid, e.type, e.payload, e.meta, e.error,
           e._created_timestamp
      FROM data_manager.event_store e WHERE e.event_id = unseen.event_id OFFSET 0
  ) AS e
  ORDER BY e.event_id

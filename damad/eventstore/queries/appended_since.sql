-- What was appended since a place in the log, by type, failures by their kind too; and the place that is reached now.
-- $1: the snapshot at that place · $2: its last event_id. NULL: only the place.
-- Each event counts once, however late it commits, as in feed_difference.sql.
-- waited: from when a task might run until it started · ran: from its start to its end, or to the failure.
WITH late AS MATERIALIZED (
  SELECT e.event_id FROM data_manager.event_store e
    WHERE (e.txid >= pg_snapshot_xmax($1::text::pg_snapshot)
        OR e.txid = ANY (ARRAY (SELECT pg_snapshot_xip($1::text::pg_snapshot))))
      AND e.event_id <= $2
      AND e.event_id > coalesce((SELECT max(up_to_event_id) FROM data_manager.feed_epochs), 0)
), new AS (
  SELECT e.event_id FROM data_manager.event_store e WHERE e.event_id > $2
), timed AS (
  SELECT e.type,
         CASE WHEN e.type = 'dama/task:ERROR' THEN e.payload ->> 'kind' END AS kind,
         t.etl_context_id IS NOT NULL AS of_task,
         CASE WHEN e.type = 'dama/task:STARTED' AND t.run_at <= e._created_timestamp
              THEN extract(epoch FROM e._created_timestamp - t.run_at)::float8 END AS waited,
         CASE WHEN (e.type LIKE '%:FINAL' OR e.type = 'dama/task:ERROR') AND t.started_at <= e._created_timestamp
              THEN extract(epoch FROM e._created_timestamp - t.started_at)::float8 END AS ran
    FROM (SELECT event_id FROM late UNION ALL SELECT event_id FROM new) AS unseen
      JOIN data_manager.event_store e USING (event_id)
      LEFT JOIN data_manager.dama_tasks t USING (etl_context_id)
)
SELECT place.snapshot, place.last, grouped.*
  FROM (SELECT pg_current_snapshot()::text AS snapshot, coalesce(max(event_id), 0) AS last
          FROM data_manager.event_store) AS place
    LEFT JOIN (
      SELECT type, kind, of_task, count(*) AS events,
             count(waited) AS waits, coalesce(sum(waited), 0) AS waited,
             count(ran) AS runs, coalesce(sum(ran), 0) AS ran
        FROM timed GROUP BY type, kind, of_task
    ) AS grouped ON true

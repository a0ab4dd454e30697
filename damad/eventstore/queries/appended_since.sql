-- What was appended since a place in the log, by type, failures by their kind too; and the place that is reached now.
-- $1: the snapshot at that place · $2: its last event_id. NULL: only the place. · $3: upper bounds of seconds, in order.
-- Each event counts once, however late it commits: looked for as in feed_difference.sql, and for the same reasons.
-- waited: from when a task might run until it started · ran: from its start to its end, or to the failure · bucket: how
-- many bounds are below that.
WITH late AS MATERIALIZED (
  SELECT e.event_id FROM data_manager.event_store e
    WHERE e.txid >= pg_snapshot_xmax($1::text::pg_snapshot)
      AND e.txid < pg_snapshot_xmax(pg_current_snapshot())
      AND e.event_id + 0 <= $2
  UNION ALL
  SELECT e.event_id
    FROM pg_snapshot_xip($1::text::pg_snapshot) AS running (txid)
      CROSS JOIN LATERAL (
        SELECT e.event_id FROM data_manager.event_store e WHERE e.txid = running.txid AND e.event_id + 0 <= $2 OFFSET 0
      ) AS e
), unseen AS (
  SELECT e.etl_context_id, e.type, e.payload, e._created_timestamp
    FROM data_manager.event_store e WHERE e.event_id > $2
  UNION ALL
  SELECT e.*
    FROM late CROSS JOIN LATERAL (
      SELECT e.etl_context_id, e.type, e.payload, e._created_timestamp
        FROM data_manager.event_store e WHERE e.event_id = late.event_id OFFSET 0
    ) AS e
    WHERE late.event_id > coalesce((SELECT max(up_to_event_id) FROM data_manager.feed_epochs), 0)
), timed AS (
  SELECT e.type,
         CASE WHEN e.type = 'dama/task:ERROR' THEN e.payload ->> 'kind' END AS kind,
         t.etl_context_id IS NOT NULL AS of_task,
         CASE WHEN e.type = 'dama/task:STARTED' AND t.run_at <= e._created_timestamp
              THEN extract(epoch FROM e._created_timestamp - t.run_at)::float8 END AS waited,
         CASE WHEN e.type <> 'dama/task:STARTED' AND t.started_at <= e._created_timestamp
              THEN extract(epoch FROM e._created_timestamp - t.started_at)::float8 END AS ran
    FROM unseen e
      LEFT JOIN LATERAL (
        SELECT t.etl_context_id, t.run_at, t.started_at FROM data_manager.dama_tasks t
          WHERE t.etl_context_id = e.etl_context_id
            AND (e.type IN ('dama/task:STARTED', 'dama/task:ERROR') OR e.type LIKE '%:FINAL')
          OFFSET 0  -- one look for each: the table of tasks may be larger than anything that is new
      ) AS t ON true
)
SELECT place.snapshot, place.last, grouped.*
  FROM (SELECT pg_current_snapshot()::text AS snapshot, coalesce(max(event_id), 0) AS last
          FROM data_manager.event_store) AS place
    LEFT JOIN (
      SELECT type, kind, of_task, count(*) AS events,
             count(waited) AS waits, coalesce(sum(waited), 0) AS waited,
             count(ran) AS runs, coalesce(sum(ran), 0) AS ran, bucket
        FROM timed, LATERAL (
          SELECT CASE WHEN coalesce(waited, ran) IS NULL THEN 0
                      ELSE (SELECT count(*) FROM unnest($3::float8[]) AS bound WHERE bound < coalesce(waited, ran)) END
        ) AS b (bucket)
        GROUP BY type, kind, of_task, bucket
    ) AS grouped ON true

-- What was drained after the event $1: how many tasks ended how, and how many seconds after the first claim the $2th did.
SELECT count(*) FILTER (WHERE type LIKE '%:FINAL') AS done,
       count(*) FILTER (WHERE type = 'dama/task:ERROR') AS errors,
       extract(epoch FROM (array_agg(_created_timestamp ORDER BY _created_timestamp)
                             FILTER (WHERE type LIKE '%:FINAL'))[$2::int]
                        - min(_created_timestamp) FILTER (WHERE type = 'dama/task:CLAIMED'))::float8 AS seconds
  FROM data_manager.event_store WHERE event_id > $1

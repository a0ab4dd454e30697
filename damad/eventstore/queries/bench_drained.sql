-- What was drained after the event $1: how many tasks ended how, and in how many seconds from the first claim.
SELECT count(*) FILTER (WHERE type LIKE '%:FINAL') AS done,
       count(*) FILTER (WHERE type = 'dama/task:ERROR') AS errors,
       extract(epoch FROM max(_created_timestamp) FILTER (WHERE type LIKE '%:FINAL')
                        - min(_created_timestamp) FILTER (WHERE type = 'dama/task:CLAIMED'))::float8 AS seconds
  FROM data_manager.event_store WHERE event_id > $1

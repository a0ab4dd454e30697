-- When slots were taken and given back after the event $1, in seconds of the clock of Postgres.
SELECT array_agg(extract(epoch FROM _created_timestamp)::float8 ORDER BY _created_timestamp)
         FILTER (WHERE type = 'dama/task:CLAIMED') AS taken,
       array_agg(extract(epoch FROM _created_timestamp)::float8 ORDER BY _created_timestamp)
         FILTER (WHERE type LIKE '%:FINAL') AS given_back
  FROM data_manager.event_store WHERE event_id > $1

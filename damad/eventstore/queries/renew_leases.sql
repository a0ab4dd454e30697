-- The leases of runs, each by its context and its fence. In the order of their ids, as whoever locks many does.
UPDATE data_manager.leases l
  SET until = clock_timestamp() + $3
  FROM (
    SELECT l.etl_context_id
      FROM data_manager.leases l JOIN unnest($1::bigint[], $2::bigint[]) AS held (id, fence)
        ON l.etl_context_id = held.id AND l.fence = held.fence
      ORDER BY l.etl_context_id
      FOR UPDATE OF l SKIP LOCKED
  ) AS held
  WHERE l.etl_context_id = held.etl_context_id

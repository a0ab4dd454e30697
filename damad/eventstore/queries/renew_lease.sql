UPDATE data_manager.leases
  SET until = clock_timestamp() + $3
  WHERE etl_context_id = $1 AND fence = $2
  RETURNING until

-- The runner takes over the lease from whoever claimed the task for it. No row: $3 does not hold it any more.
UPDATE data_manager.leases
  SET holder = $4, until = clock_timestamp() + $5
  WHERE etl_context_id = $1 AND fence = $2 AND holder IN ($3, $4)
  RETURNING until

-- The worker of a run says that it goes on.
UPDATE data_manager.leases
  SET beat_at = clock_timestamp()
  WHERE etl_context_id = $1 AND fence = $2

SELECT created, etl_context_id, suppressed
  FROM data_manager.queue_tasks($1, $2, $3, $4::text[]::jsonb[], $5::text[]::jsonb[], $6)

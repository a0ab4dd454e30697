SELECT replayed, (event).*
  FROM data_manager.append_events($1, $2, $3::text[]::jsonb[], $4::text[]::jsonb[], $5, $6, $7, $8)

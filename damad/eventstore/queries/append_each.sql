SELECT call, outcome, code, message, detail, broken, replayed, (event).*
  FROM data_manager.append_each($1, $2, $3::text[]::jsonb[], $4::text[]::jsonb[], $5, $6, $7, $8, $9)

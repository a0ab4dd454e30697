SELECT replayed, (event).*
  FROM data_manager.append_events($1, $2, $3, $4, $5, $6, $7, $8)

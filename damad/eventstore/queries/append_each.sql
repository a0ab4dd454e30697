SELECT call, outcome, code, message, detail, broken, replayed, (event).*
  FROM data_manager.append_each($1, $2, $3, $4, $5, $6, $7, $8, $9)

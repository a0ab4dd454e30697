-- States of ancestors, self and descendants.
SELECT s.*
  FROM data_manager.etl_context_line($1) AS line
    JOIN data_manager.context_states s USING (etl_context_id)
  ORDER BY line.depth, s.etl_context_id

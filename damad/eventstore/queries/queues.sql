-- What is set for the queues. $1: for this one alone, or NULL
SELECT name, paused, concurrency, global_concurrency, key_concurrency, rate, key_rate, aging, shared, run_in,
       settings
  FROM data_manager.dama_queues
  WHERE $1::text IS NULL OR name = $1
  ORDER BY name

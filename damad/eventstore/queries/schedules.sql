-- A page of schedules in the order of their names. $1: after this name, or NULL · $2: at most
SELECT *, clock_timestamp() AS at
  FROM data_manager.dama_schedules
  WHERE $1::text IS NULL OR name > $1 COLLATE "C"
  ORDER BY name COLLATE "C"
  LIMIT $2

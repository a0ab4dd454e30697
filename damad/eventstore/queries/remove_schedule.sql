DELETE FROM data_manager.dama_schedules WHERE name = $1 RETURNING name

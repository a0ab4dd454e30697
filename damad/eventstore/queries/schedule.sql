SELECT *, clock_timestamp() AS at FROM data_manager.dama_schedules WHERE name = $1

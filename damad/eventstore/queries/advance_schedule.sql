-- Which ticks are over, and which wait. Whoever holds the row says so.
UPDATE data_manager.dama_schedules SET last_tick = $2, next_tick = $3, buffered = $4 WHERE name = $1

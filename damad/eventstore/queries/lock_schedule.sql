-- A schedule, which nobody else changes or takes a tick of until this transaction is over.
SELECT *, clock_timestamp() AS at FROM data_manager.dama_schedules WHERE name = $1 FOR UPDATE

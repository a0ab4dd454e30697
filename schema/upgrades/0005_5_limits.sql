-- From version 4 to 5, what tasks may set: columns that a new database has from the beginning, and a function that says
-- more now.
ALTER TABLE IF EXISTS data_manager.dama_tasks
  ADD COLUMN IF NOT EXISTS start_by timestamptz,
  ADD COLUMN IF NOT EXISTS singleton_key text;
ALTER TABLE IF EXISTS data_manager.leases
  ADD COLUMN IF NOT EXISTS beat_at timestamptz;
DROP FUNCTION IF EXISTS data_manager.queue_tasks(bigint[], bigint[], text[], jsonb[], jsonb[], uuid[]);

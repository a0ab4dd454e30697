-- From version 4 to 5: a waiting task's row says what it waits for.
ALTER TABLE IF EXISTS data_manager.dama_tasks ADD COLUMN IF NOT EXISTS waits_for jsonb;

-- From version 5 to 6, what queues may have set: columns that a new database has from the beginning.
ALTER TABLE IF EXISTS data_manager.dama_queues
  ADD COLUMN IF NOT EXISTS key_rate text CHECK (key_rate ~ '^[1-9][0-9]{0,8}/[0-9]{1,10}([.][0-9]{1,9})?(ms|s|m|h|d)$'),
  ADD COLUMN IF NOT EXISTS aging double precision CHECK (aging > 0);

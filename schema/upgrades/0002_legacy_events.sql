-- From version 1 to 2: events of the original that break the rules are marked, and stay outside of the indexes that
-- enforce them. (The transaction of each event came while version 1 was being built: here it may be missing.)
ALTER TABLE data_manager.event_store
  ADD COLUMN IF NOT EXISTS txid xid8 NOT NULL DEFAULT '0',
  ADD COLUMN IF NOT EXISTS legacy boolean NOT NULL DEFAULT false;

ALTER TABLE data_manager.event_store
  ALTER COLUMN txid DROP DEFAULT;

DROP INDEX IF EXISTS data_manager.event_store_one_initial_key, data_manager.event_store_one_final_key;

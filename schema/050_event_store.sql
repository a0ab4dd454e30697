-- The log, and the only truth. Rows are inserted and never changed.
-- fence: the claim under which the event was written; NULL for what comes from outside a run.
-- txid: of the transaction that wrote it, by which the feed over all contexts knows what it has shown.
-- legacy: written by the original against the rules that hold now. Kept, and passed over by every fold; none is added.
-- No foreign key to the context, here and in the tables of tasks and leases: the judge holds that row, and one with events
-- is never deleted (schema/141). Asked again for each row, the keys cost a third of queueing a task.
-- event_id has no default: the judge draws it from the sequence once it holds the context's lock.
CREATE SEQUENCE IF NOT EXISTS data_manager.event_store_event_id_seq;

CREATE TABLE IF NOT EXISTS data_manager.event_store (
  event_id            bigint PRIMARY KEY,
  etl_context_id      bigint NOT NULL,
  version             bigint NOT NULL,
  event_uuid          uuid NOT NULL,
  type                text NOT NULL,
  payload             jsonb,
  meta                jsonb,
  error               boolean,
  fence               bigint,
  txid                xid8 NOT NULL,
  _created_timestamp  timestamptz NOT NULL,
  legacy              boolean NOT NULL DEFAULT false
);

CREATE UNIQUE INDEX IF NOT EXISTS event_store_version_key
  ON data_manager.event_store (etl_context_id, version);
CREATE INDEX IF NOT EXISTS event_store_txid_idx
  ON data_manager.event_store (txid);
CREATE UNIQUE INDEX IF NOT EXISTS event_store_uuid_key
  ON data_manager.event_store (event_uuid);
CREATE UNIQUE INDEX IF NOT EXISTS event_store_one_initial_key
  ON data_manager.event_store (etl_context_id) WHERE type LIKE '%:INITIAL' AND NOT legacy;
CREATE UNIQUE INDEX IF NOT EXISTS event_store_one_final_key
  ON data_manager.event_store (etl_context_id) WHERE type LIKE '%:FINAL' AND NOT legacy;

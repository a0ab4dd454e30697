-- Tasks whose cancel could not be written yet, for somebody holds their context in an open transaction. Whoever has the
-- process stops it meanwhile; the events follow once the row is free, and then the intent goes. No projection, and no
-- foreign key or unique key: noting one waits for nobody, not even for the one who holds the context or ends it just now.
CREATE TABLE IF NOT EXISTS data_manager.cancel_intents (
  etl_context_id  bigint NOT NULL,
  wanted_at       timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE INDEX IF NOT EXISTS cancel_intents_etl_context_id_idx
  ON data_manager.cancel_intents (etl_context_id);

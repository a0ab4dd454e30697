-- What was left of the key_rate of a concurrency_key in a queue when something was claimed of it last (schema/222). A key of
-- which nothing was claimed for as long as its bucket takes to fill has no row: its bucket is full.
CREATE TABLE IF NOT EXISTS data_manager.dama_key_tokens (
  queue      text NOT NULL,
  key        text NOT NULL,
  tokens     double precision NOT NULL,
  tokens_at  timestamptz NOT NULL,
  PRIMARY KEY (queue, key)
);

CREATE INDEX IF NOT EXISTS dama_key_tokens_at_idx
  ON data_manager.dama_key_tokens (queue, tokens_at);

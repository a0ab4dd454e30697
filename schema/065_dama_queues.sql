-- Queues, as they are set for all hosts. Configuration and no projection: no event says it, and rebuild leaves it alone.
-- NULL: as each host's own configuration says. A queue without a row is one with nothing set.
-- global_concurrency, key_concurrency: over all hosts, of the queue and of each concurrency_key in it · rate, key_rate:
-- "100/1m", how many are claimed in which time, of the queue and of each concurrency_key · settings: task settings for tasks
-- that do not say · aging: after how many seconds of waiting a task's priority counts as one higher.
-- tokens, tokens_at: what was left of the rate when something was claimed last (schema/222).
CREATE TABLE IF NOT EXISTS data_manager.dama_queues (
  name                text PRIMARY KEY CHECK (name ~ '^[a-z][a-z0-9_]{0,62}$'),
  paused              boolean NOT NULL DEFAULT false,
  concurrency         integer CHECK (concurrency >= 0),
  global_concurrency  integer CHECK (global_concurrency > 0),
  key_concurrency     integer CHECK (key_concurrency > 0),
  rate                text CHECK (rate ~ '^[1-9][0-9]{0,8}/[0-9]{1,10}([.][0-9]{1,9})?(ms|s|m|h|d)$'),
  shared              boolean,
  run_in              text CHECK (run_in IN ('process', 'daemon')),
  settings            jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(settings) = 'object'),
  tokens              double precision,
  tokens_at           timestamptz,
  key_rate            text CHECK (key_rate ~ '^[1-9][0-9]{0,8}/[0-9]{1,10}([.][0-9]{1,9})?(ms|s|m|h|d)$'),
  aging               double precision CHECK (aging > 0)
);

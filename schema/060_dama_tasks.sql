-- The task table: one row per EtlContext whose :INITIAL carries task settings. A projection, all of it:
-- damad/model/lifecycle.py folds the same row out of the events, and `damad verify` compares the two.
-- home_host_id: the host that queued it (NULL: any may run it) · host_id: the host that claimed it last.
-- errors, crashes: failures of each sort since it was queued or requeued; retry_limit bounds each.
-- resumed: its next run goes on with the attempt it had, because a wait ended or the run was handed back.
-- waits_for: what a waiting task waits for, as its WAITING event says; by then, where it waits no longer, run_at has come.
-- start_by: when it fails unless it has begun by then; NULL once it did, or where nobody asked for that.
-- schedule: the schedule that made it.
CREATE TABLE IF NOT EXISTS data_manager.dama_tasks (
  etl_context_id    bigint PRIMARY KEY,
  worker            text NOT NULL,
  queue             text NOT NULL,
  priority          integer NOT NULL,
  settings          jsonb NOT NULL,
  idempotency_key   text,
  state             text NOT NULL,
  initial_event_id  bigint NOT NULL,
  run_at            timestamptz NOT NULL,
  home_host_id      uuid,
  host_id           uuid,
  fence             bigint NOT NULL DEFAULT 0,
  attempt           integer NOT NULL DEFAULT 0,
  pid               bigint,
  errors            integer NOT NULL DEFAULT 0,
  crashes           integer NOT NULL DEFAULT 0,
  resumed           boolean NOT NULL DEFAULT false,
  started_at        timestamptz,
  finished_at       timestamptz,
  progress          jsonb,
  error             jsonb,
  schedule          text,
  waits_for         jsonb,
  start_by          timestamptz,
  singleton_key     text
);

CREATE UNIQUE INDEX IF NOT EXISTS dama_tasks_idempotency_key
  ON data_manager.dama_tasks (idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX IF NOT EXISTS dama_tasks_queued_idx
  ON data_manager.dama_tasks (queue, priority DESC, initial_event_id) WHERE state = 'queued';
CREATE INDEX IF NOT EXISTS dama_tasks_due_idx
  ON data_manager.dama_tasks (queue, run_at) WHERE state IN ('scheduled', 'retrying');
CREATE INDEX IF NOT EXISTS dama_tasks_held_idx
  ON data_manager.dama_tasks (host_id, queue) WHERE state IN ('claimed', 'running', 'cancelling');
CREATE INDEX IF NOT EXISTS dama_tasks_waiting_idx
  ON data_manager.dama_tasks (run_at) WHERE state = 'waiting';
-- Those that something else than time may wake.
CREATE INDEX IF NOT EXISTS dama_tasks_awaiting_idx
  ON data_manager.dama_tasks (etl_context_id) WHERE state = 'waiting' AND waits_for ?| '{event,children}';
-- Those that have a concurrency_key, key by key: schema/222.
CREATE INDEX IF NOT EXISTS dama_tasks_keyed_idx
  ON data_manager.dama_tasks (queue, (settings ->> 'concurrency_key'), priority DESC, initial_event_id)
  WHERE state = 'queued' AND settings ->> 'concurrency_key' IS NOT NULL;
CREATE INDEX IF NOT EXISTS dama_tasks_late_idx
  ON data_manager.dama_tasks (start_by) WHERE start_by IS NOT NULL AND state IN ('queued', 'scheduled');
-- One task with a singleton_key at a time: it is open until it is done, failed or cancelled.
CREATE UNIQUE INDEX IF NOT EXISTS dama_tasks_singleton_key
  ON data_manager.dama_tasks (singleton_key)
  WHERE singleton_key IS NOT NULL AND state NOT IN ('done', 'failed', 'cancelled');
-- The last task of each singleton_key, whatever became of it: schema/209.
CREATE INDEX IF NOT EXISTS dama_tasks_singleton_idx
  ON data_manager.dama_tasks (singleton_key, initial_event_id) WHERE singleton_key IS NOT NULL;
CREATE INDEX IF NOT EXISTS dama_tasks_scheduled_idx
  ON data_manager.dama_tasks (schedule) WHERE schedule IS NOT NULL AND state NOT IN ('done', 'failed', 'cancelled');

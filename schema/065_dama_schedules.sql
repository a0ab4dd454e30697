-- Schedules: which tasks are queued at the ticks of a cron. Configuration, not a projection: no event says what stands here.
-- schedule_id: of this schedule and no later one of its name; with a tick it names the :INITIAL that the tick made.
-- missed_within, jitter: seconds · buffered: ticks that wait until the run before them has ended, oldest first.
-- next_tick: the first tick that nobody has handled, or NULL where none comes any more. It moves under the lock of the row,
-- in the transaction that queues the task, so a tick makes one context however many daemons there are.
-- last_tick: the last one handled, for people to see. Ticks before next_tick are over, whatever became of them.
CREATE TABLE IF NOT EXISTS data_manager.dama_schedules (
  name           text PRIMARY KEY,
  schedule_id    uuid NOT NULL DEFAULT gen_random_uuid(),
  cron           text NOT NULL,
  zone           text NOT NULL DEFAULT 'UTC',
  worker         text NOT NULL,
  payload        jsonb,
  overlap        text NOT NULL DEFAULT 'skip'
    CHECK (overlap IN ('skip', 'buffer_one', 'buffer_all', 'cancel_other', 'terminate_other', 'allow_all')),
  missed         text NOT NULL DEFAULT 'one' CHECK (missed IN ('skip', 'one', 'all')),
  missed_within  double precision,
  jitter         double precision NOT NULL DEFAULT 0,
  paused         boolean NOT NULL DEFAULT false,
  settings       jsonb NOT NULL DEFAULT '{}',
  source_id      bigint REFERENCES data_manager.sources (source_id),
  meta           jsonb,
  last_tick      timestamptz,
  next_tick      timestamptz DEFAULT clock_timestamp(),
  buffered       timestamptz[] NOT NULL DEFAULT '{}'
);

-- Whoever waits for the next tick hears that it may be another one now. What the ticks themselves write says nothing new.
CREATE OR REPLACE FUNCTION data_manager.announce_schedule()
  RETURNS trigger
  LANGUAGE plpgsql
  AS $$
    BEGIN
      PERFORM pg_notify('DAMAD_SCHEDULE', '');
      RETURN NULL;
    END
  $$;

CREATE OR REPLACE TRIGGER dama_schedules_announce
  AFTER INSERT OR UPDATE OF cron, zone, overlap, paused OR DELETE ON data_manager.dama_schedules
  FOR EACH STATEMENT EXECUTE FUNCTION data_manager.announce_schedule();

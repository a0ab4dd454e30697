-- A context begins without events and at a time that has come, whatever the writer of its row filled in: its events are
-- never older than it.
CREATE OR REPLACE FUNCTION data_manager.begin_without_events()
  RETURNS trigger
  LANGUAGE plpgsql
  AS $$
    BEGIN
      NEW.etl_status       := NULL;
      NEW.initial_event_id := NULL;
      NEW.latest_event_id  := NULL;
      NEW.version          := 0;
      NEW._created_timestamp  := least(NEW._created_timestamp, clock_timestamp());
      NEW._modified_timestamp := least(NEW._modified_timestamp, clock_timestamp());
      RETURN NEW;
    END
  $$;

CREATE OR REPLACE TRIGGER etl_contexts_begin_without_events
  BEFORE INSERT ON data_manager.etl_contexts
  FOR EACH ROW WHEN (
    NEW.version <> 0 OR NEW.etl_status IS NOT NULL OR NEW.initial_event_id IS NOT NULL OR NEW.latest_event_id IS NOT NULL
    OR greatest(NEW._created_timestamp, NEW._modified_timestamp) > clock_timestamp()
  ) EXECUTE FUNCTION data_manager.begin_without_events();

-- INSERT … ON CONFLICT DO NOTHING drops a row after the judge let it in, when another transaction committed the same
-- event_uuid meanwhile. Its context has moved on by then, so the transaction must not commit.
CREATE OR REPLACE FUNCTION data_manager.require_event()
  RETURNS trigger
  LANGUAGE plpgsql
  AS $$
    BEGIN
      IF NOT EXISTS (SELECT FROM data_manager.event_store WHERE event_id = NEW.latest_event_id) THEN
        PERFORM data_manager.refuse('DA004', 'an event was dropped, for its event_uuid is in the log already',
          jsonb_build_object('etl_context_id', NEW.etl_context_id));
      END IF;
      RETURN NULL;
    END
  $$;

DROP TRIGGER IF EXISTS etl_contexts_latest_event_exists ON data_manager.etl_contexts;
CREATE CONSTRAINT TRIGGER etl_contexts_latest_event_exists
  AFTER UPDATE ON data_manager.etl_contexts
  DEFERRABLE INITIALLY DEFERRED
  FOR EACH ROW WHEN (pg_trigger_depth() > 0) EXECUTE FUNCTION data_manager.require_event();

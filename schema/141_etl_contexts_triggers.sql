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
    (NEW.version, NEW.etl_status, NEW.initial_event_id) IS DISTINCT FROM (1::bigint, 'OPEN', NEW.latest_event_id)
    AND (NEW.version <> 0 OR num_nonnulls(NEW.etl_status, NEW.initial_event_id, NEW.latest_event_id) > 0)
    OR greatest(NEW._created_timestamp, NEW._modified_timestamp) > clock_timestamp()
  ) EXECUTE FUNCTION data_manager.begin_without_events();

-- A row that says otherwise is one of damad's own functions', which begin a context and its :INITIAL in one statement, or
-- refused: such a context has this very event.
CREATE OR REPLACE FUNCTION data_manager.require_beginning()
  RETURNS trigger
  LANGUAGE plpgsql
  SET enable_seqscan = off
  AS $$
    DECLARE
      strange  bigint;
    BEGIN
      SELECT a.etl_context_id INTO strange
        FROM begun a
        WHERE a.version <> 0 AND (
          SELECT e.etl_context_id = a.etl_context_id AND e.version = 1 AND e.type LIKE '%:INITIAL'
            FROM data_manager.event_store e
            WHERE e.event_id = a.initial_event_id
        ) IS NOT TRUE
        LIMIT 1;
      IF FOUND THEN
        PERFORM data_manager.refuse('DA001', format('context %s begins without events', strange),
          jsonb_build_object('etl_context_id', strange));
      END IF;
      RETURN NULL;
    END
  $$;

CREATE OR REPLACE TRIGGER etl_contexts_are_begun
  AFTER INSERT ON data_manager.etl_contexts
  REFERENCING NEW TABLE AS begun
  FOR EACH STATEMENT EXECUTE FUNCTION data_manager.require_beginning();

-- What has events stays, under the id that they name, unless it goes with them (schema/240).
CREATE OR REPLACE FUNCTION data_manager.refuse_end()
  RETURNS trigger
  LANGUAGE plpgsql
  AS $$
    BEGIN
      IF TG_OP = 'DELETE' AND data_manager.may_remove() THEN
        RETURN OLD;
      END IF;
      PERFORM data_manager.refuse('DA006', TG_OP || ' refused: a context that has events keeps its row and its id',
        jsonb_build_object('operation', TG_OP));
      RETURN NULL;
    END
  $$;

CREATE OR REPLACE TRIGGER etl_contexts_with_events_stay
  BEFORE DELETE ON data_manager.etl_contexts
  FOR EACH ROW WHEN (OLD.version <> 0) EXECUTE FUNCTION data_manager.refuse_end();

CREATE OR REPLACE TRIGGER etl_contexts_with_events_keep_their_id
  BEFORE UPDATE OF etl_context_id ON data_manager.etl_contexts
  FOR EACH ROW WHEN (OLD.version <> 0 AND OLD.etl_context_id <> NEW.etl_context_id)
  EXECUTE FUNCTION data_manager.refuse_end();

CREATE OR REPLACE TRIGGER etl_contexts_refuse_truncate
  BEFORE TRUNCATE ON data_manager.etl_contexts
  FOR EACH STATEMENT EXECUTE FUNCTION data_manager.refuse_end();

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

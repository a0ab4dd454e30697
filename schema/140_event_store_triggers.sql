-- An append is judged; an event is never changed, and removed by remove_contexts alone (schema/240).
CREATE OR REPLACE FUNCTION data_manager.refuse_change()
  RETURNS trigger
  LANGUAGE plpgsql
  AS $$
    BEGIN
      IF TG_OP = 'DELETE' AND data_manager.may_remove() THEN
        RETURN NULL;
      END IF;
      PERFORM data_manager.refuse('DA006', TG_OP || ' refused: events are appended and never changed',
        jsonb_build_object('operation', TG_OP));
      RETURN NULL;
    END
  $$;

-- dama/task:ERROR says that an attempt failed; what becomes of the task is appended with it. Judged when the
-- transaction commits, for a function that appends both inserts them one after the other.
CREATE OR REPLACE FUNCTION data_manager.require_conclusion()
  RETURNS trigger
  LANGUAGE plpgsql
  AS $$
    DECLARE
      now_in  text;
    BEGIN
      SELECT state INTO now_in FROM data_manager.dama_tasks WHERE etl_context_id = NEW.etl_context_id;
      IF now_in = 'erred' OR now_in = 'cancelling' THEN
        PERFORM data_manager.refuse('DA009',
          'dama/task:ERROR stands in one statement with dama/task:RETRY, dama/task:FAILED or dama/task:CANCELLED',
          jsonb_build_object('etl_context_id', NEW.etl_context_id, 'state', now_in));
      END IF;
      RETURN NULL;
    END
  $$;

-- Events that carry the number of the very transaction come from the judge: damad's own functions let it judge many at
-- once, and insert what it returns. Any other row is judged now.
CREATE OR REPLACE TRIGGER event_store_judge
  BEFORE INSERT ON data_manager.event_store
  FOR EACH ROW WHEN (NEW.txid IS DISTINCT FROM pg_current_xact_id()) EXECUTE FUNCTION data_manager.judge_event();

-- That number can be filled in by anybody, a place that the judge gave out cannot: versions have no gap, so one that the
-- context's row has reached already is in the log, and a unique index refuses it. One beyond is refused here.
CREATE OR REPLACE FUNCTION data_manager.require_judgement()
  RETURNS trigger
  LANGUAGE plpgsql
  SET enable_seqscan = off
  AS $$
    DECLARE
      strange  bigint;
    BEGIN
      SELECT a.etl_context_id INTO strange
        FROM added a
        WHERE (
          SELECT NOT a.legacy AND (a.version > 1 OR a.version = 1 AND a.type LIKE '%:INITIAL')
            FROM data_manager.etl_contexts c
            WHERE c.etl_context_id = a.etl_context_id AND c.version >= a.version AND c.latest_event_id >= a.event_id
        ) IS NOT TRUE
        LIMIT 1;
      IF FOUND THEN
        PERFORM data_manager.refuse('DA001', format('an event of context %s was not judged: leave its txid out', strange),
          jsonb_build_object('etl_context_id', strange));
      END IF;
      RETURN NULL;
    END
  $$;

CREATE OR REPLACE TRIGGER event_store_was_judged
  AFTER INSERT ON data_manager.event_store
  REFERENCING NEW TABLE AS added
  FOR EACH STATEMENT EXECUTE FUNCTION data_manager.require_judgement();

DROP TRIGGER IF EXISTS event_store_error_is_concluded ON data_manager.event_store;
CREATE CONSTRAINT TRIGGER event_store_error_is_concluded
  AFTER INSERT ON data_manager.event_store
  DEFERRABLE INITIALLY DEFERRED
  FOR EACH ROW WHEN (NEW.type = 'dama/task:ERROR') EXECUTE FUNCTION data_manager.require_conclusion();

CREATE OR REPLACE TRIGGER event_store_refuse_change
  BEFORE UPDATE OR DELETE ON data_manager.event_store
  FOR EACH STATEMENT EXECUTE FUNCTION data_manager.refuse_change();

CREATE OR REPLACE TRIGGER event_store_refuse_truncate
  BEFORE TRUNCATE ON data_manager.event_store
  FOR EACH STATEMENT EXECUTE FUNCTION data_manager.refuse_change();

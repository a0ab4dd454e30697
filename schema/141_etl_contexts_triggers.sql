-- A context begins without events, whatever the writer of its row filled in.
CREATE OR REPLACE FUNCTION data_manager.begin_without_events()
  RETURNS trigger
  LANGUAGE plpgsql
  AS $$
    BEGIN
      NEW.etl_status       := NULL;
      NEW.initial_event_id := NULL;
      NEW.latest_event_id  := NULL;
      NEW.version          := 0;
      RETURN NEW;
    END
  $$;

CREATE OR REPLACE TRIGGER etl_contexts_begin_without_events
  BEFORE INSERT ON data_manager.etl_contexts
  FOR EACH ROW WHEN (
    NEW.version <> 0 OR NEW.etl_status IS NOT NULL OR NEW.initial_event_id IS NOT NULL OR NEW.latest_event_id IS NOT NULL
  ) EXECUTE FUNCTION data_manager.begin_without_events();

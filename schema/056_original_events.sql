-- The last event that the original wrote, where it made this database and `damad migrate` upgraded it; no row where damad
-- made it. The tasks among those events were another scheduler's: a fold reads them as contexts that are no tasks.
CREATE TABLE IF NOT EXISTS data_manager.original_events (
  up_to_event_id  bigint NOT NULL
);

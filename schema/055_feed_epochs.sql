-- The feed over all contexts compares transaction ids, which mean something only within one cluster. A row for each
-- cluster that this database has lived in (it was restored, or copied): everything up to its event was there when it
-- began, whatever the transaction ids of those events say.
CREATE TABLE IF NOT EXISTS data_manager.feed_epochs (
  system_id       bigint      PRIMARY KEY,
  up_to_event_id  bigint      NOT NULL,
  begun_at        timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Says once for each cluster that this database lives in which events were there when it began to.
INSERT INTO data_manager.feed_epochs (system_id, up_to_event_id)
  SELECT s.system_identifier, coalesce((SELECT max(event_id) FROM data_manager.event_store), 0)
    FROM pg_control_system() s
    WHERE NOT EXISTS (SELECT FROM data_manager.feed_epochs e WHERE e.system_id = s.system_identifier)
  ON CONFLICT DO NOTHING

-- Where the log ends now.
SELECT coalesce(max(event_id), 0) AS event_id FROM data_manager.event_store

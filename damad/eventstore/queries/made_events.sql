-- Which of these event_uuids are in the log.
SELECT event_uuid FROM data_manager.event_store WHERE event_uuid = ANY ($1::uuid[])

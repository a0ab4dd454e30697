-- Every event in the order of its context, as a fold needs them. How fast it is read bounds how fast it is folded.
SELECT event_id, etl_context_id, version, type, payload, meta, fence, _created_timestamp, legacy
  FROM data_manager.event_store ORDER BY etl_context_id, version

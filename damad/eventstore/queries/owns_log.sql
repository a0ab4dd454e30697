-- Whether this session has the rights of the owner of the log.
SELECT pg_has_role(current_user, c.relowner, 'USAGE') AS owns
  FROM pg_class c WHERE c.oid = 'data_manager.event_store'::regclass

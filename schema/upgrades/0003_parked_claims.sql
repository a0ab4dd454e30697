-- From version 2 to 3: who claims says which tasks to leave out. The function that could not be told goes.
DROP FUNCTION IF EXISTS data_manager.claim_tasks(text, integer, boolean, uuid, text, interval);

-- From version 4 to 5: a task that a schedule made says so in a column. None had a schedule, but for what plain SQL wrote.
ALTER TABLE data_manager.dama_tasks ADD COLUMN IF NOT EXISTS schedule text;
UPDATE data_manager.dama_tasks
  SET schedule = settings ->> 'schedule'
  WHERE jsonb_typeof(settings -> 'schedule') = 'string' AND schedule IS DISTINCT FROM settings ->> 'schedule';

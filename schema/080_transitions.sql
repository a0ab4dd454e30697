-- Which event may follow in which state, and the state after it. What is not here is refused.
-- The same table as TRANSITIONS in damad/model/lifecycle.py: a test walks both, cell by cell.
CREATE TABLE IF NOT EXISTS data_manager.transitions (
  state       text NOT NULL,
  kind        text NOT NULL,
  next_state  text NOT NULL,
  PRIMARY KEY (state, kind)
);

DELETE FROM data_manager.transitions;

INSERT INTO data_manager.transitions (state, kind, next_state)
  VALUES
    -- a context that is no task
    ('new',        'INITIAL',          'open'),
    ('open',       'EVENT',            'open'),
    ('open',       'EVENT_ERROR',      'error'),
    ('open',       'FINAL',            'done'),
    ('error',      'EVENT',            'open'),
    ('error',      'EVENT_ERROR',      'error'),
    ('error',      'FINAL',            'done'),
    -- a task that waits for a slot or for its time
    ('new',        'TASK_INITIAL',     'queued'),
    ('queued',     'CLAIMED',          'claimed'),
    ('queued',     'CANCEL_REQUESTED', 'cancelling'),
    ('queued',     'ERROR',            'erred'),
    ('scheduled',  'CLAIMED',          'claimed'),
    ('scheduled',  'CANCEL_REQUESTED', 'cancelling'),
    ('scheduled',  'RELEASED',         'queued'),
    ('scheduled',  'ERROR',            'erred'),
    ('retrying',   'CLAIMED',          'claimed'),
    ('retrying',   'CANCEL_REQUESTED', 'cancelling'),
    ('waiting',    'RESUMED',          'queued'),
    ('waiting',    'CANCEL_REQUESTED', 'cancelling'),
    -- a task that somebody holds
    ('claimed',    'STARTED',          'running'),
    ('claimed',    'RELEASED',         'queued'),
    ('claimed',    'CANCEL_REQUESTED', 'cancelling'),
    ('running',    'PROGRESS',         'running'),
    ('running',    'STEP',             'running'),
    ('running',    'SUBTASK',          'running'),
    ('running',    'WAITING',          'waiting'),
    ('running',    'RELEASED',         'queued'),
    ('running',    'ERROR',            'erred'),
    ('running',    'CANCEL_REQUESTED', 'cancelling'),
    ('cancelling', 'PROGRESS',         'cancelling'),
    ('cancelling', 'STEP',             'cancelling'),
    ('cancelling', 'SUBTASK',          'cancelling'),
    ('cancelling', 'ERROR',            'cancelling'),
    ('cancelling', 'CANCELLED',        'cancelled'),
    -- the second half of the statement that began with ERROR
    ('erred',      'RETRY',            'retrying'),
    ('erred',      'FAILED',           'failed'),
    -- a person tries again
    ('failed',     'REQUEUED',         'queued'),
    ('cancelled',  'REQUEUED',         'queued');

-- The events of workers and of the world outside are welcome in every open state of a task.
INSERT INTO data_manager.transitions (state, kind, next_state)
  SELECT state, kind, CASE kind WHEN 'FINAL' THEN 'done' ELSE state END
    FROM unnest(ARRAY['queued', 'scheduled', 'retrying', 'waiting', 'claimed', 'running', 'cancelling']) AS s (state)
      CROSS JOIN unnest(ARRAY['EVENT', 'EVENT_ERROR', 'FINAL']) AS k (kind);

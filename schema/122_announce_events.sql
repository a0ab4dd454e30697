-- The hints that an append gives to whoever listens. A hint carries no more than ids, and none is given for progress:
-- commits that notify queue on one lock of the whole cluster.
--   ETL_CONTEXT_FINAL_EVENT  the original's channel: the context's id, when its :FINAL commits
--   DAMAD_EVENT              ids of contexts, with commas between them, for every other reader of their events
--   DAMAD_TASK               something changed that a scheduler may act upon
--   DAMAD_SCHEDULE           a schedule is another one than before (065)

-- Hints at events of some contexts: as many ids in each as a payload of 8000 bytes holds for certain.
CREATE OR REPLACE FUNCTION data_manager.announce_contexts(ids bigint[])
  RETURNS void
  LANGUAGE plpgsql
  AS $$
    BEGIN
      FOR place IN 1 .. cardinality(ids) BY 390 LOOP
        PERFORM pg_notify('DAMAD_EVENT', array_to_string(ids[place : place + 389], ','));
      END LOOP;
    END
  $$;

-- Hints at what was judged: each event's context, its kind, and the state of its task after it, if that may have changed.
CREATE OR REPLACE FUNCTION data_manager.announce_events(ids bigint[], kinds text[], states text[])
  RETURNS void
  LANGUAGE plpgsql
  AS $$
    BEGIN
      IF NOT 'PROGRESS' = ANY (kinds) THEN
        PERFORM data_manager.announce_contexts(ids);
      ELSE
        PERFORM data_manager.announce_contexts(ARRAY (
          SELECT e.id FROM unnest(ids, kinds) AS e (id, kind) WHERE e.kind <> 'PROGRESS'
        ));
      END IF;
      IF 'FINAL' = ANY (kinds) THEN
        PERFORM pg_notify('ETL_CONTEXT_FINAL_EVENT', e.id::text) FROM unnest(ids, kinds) AS e (id, kind)
          WHERE e.kind = 'FINAL';
      END IF;
      -- An event may be what a waiting task waits for.
      IF 'waiting' = ANY (states) OR NOT kinds <@ '{EVENT,EVENT_ERROR,PROGRESS,STEP,SUBTASK}'
        AND states && '{queued,scheduled,retrying,cancelling,done,failed,cancelled}' THEN
        PERFORM pg_notify('DAMAD_TASK', '');
      END IF;
    END
  $$;

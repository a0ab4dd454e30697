-- The judge of every append, whoever inserts and whatever columns were filled in. Under the lock of the
-- context's row it gives the event its place (version, event_id, time), asks the table of transitions,
-- refuses an old fence, and writes the projections. A fence is old once a claim raised it, and as soon as the claim
-- that it stands for is over: a run that was released, failed or ended to wait appends nothing more.
-- FOR NO KEY UPDATE, because FOR UPDATE would block whoever queues a child of this context. The event_id is
-- drawn here and not by the column's default, which is drawn before the lock is held and so out of order.
CREATE OR REPLACE FUNCTION data_manager.judge_event()
  RETURNS trigger
  LANGUAGE plpgsql
  AS $$
    DECLARE
      ctx      data_manager.etl_contexts;
      task     data_manager.dama_tasks;
      evolved  data_manager.dama_tasks;
      this_kind text := data_manager.event_kind(NEW.type);
      before   text;
      after    text;
    BEGIN
      SELECT * INTO ctx
        FROM data_manager.etl_contexts
        WHERE etl_context_id = NEW.etl_context_id
        FOR NO KEY UPDATE;
      IF NOT FOUND THEN
        PERFORM data_manager.refuse('DA005', format('there is no context %s', coalesce(NEW.etl_context_id::text, 'NULL')),
          jsonb_build_object('etl_context_id', NEW.etl_context_id));
      END IF;

      IF NEW.event_uuid IS NULL THEN
        NEW.event_uuid := gen_random_uuid();
      ELSIF EXISTS (SELECT FROM data_manager.event_store e WHERE e.event_uuid = NEW.event_uuid) THEN
        -- Judged here and not left to the unique index, which ON CONFLICT DO NOTHING would pass by in silence.
        PERFORM data_manager.refuse('DA004', format('event_uuid %s is in the log already', NEW.event_uuid),
          jsonb_build_object('event_uuid', NEW.event_uuid));
      END IF;
      NEW.legacy             := false;
      NEW.version            := ctx.version + 1;
      NEW.txid               := pg_current_xact_id();
      NEW._created_timestamp := greatest(clock_timestamp(), ctx._modified_timestamp);

      SELECT * INTO task FROM data_manager.dama_tasks WHERE etl_context_id = NEW.etl_context_id;
      IF this_kind = 'INITIAL' AND jsonb_typeof(NEW.meta -> '__dama_task_manager__') <> 'null' THEN
        this_kind := 'TASK_INITIAL';
      END IF;
      before := CASE WHEN ctx.initial_event_id IS NULL THEN 'new'
                     ELSE coalesce(task.state, lower(ctx.etl_status)) END;

      IF NEW.fence IS NOT NULL AND (
        NEW.fence IS DISTINCT FROM task.fence OR before IN ('queued', 'scheduled', 'retrying', 'waiting')
      ) THEN
        PERFORM data_manager.refuse('DA002',
          format('fence %s is no longer valid for context %s', NEW.fence, NEW.etl_context_id),
          jsonb_build_object('etl_context_id', NEW.etl_context_id, 'fence', NEW.fence,
                             'current_fence', task.fence, 'state', before));
      END IF;

      SELECT next_state INTO after FROM data_manager.transitions t WHERE t.state = before AND t.kind = this_kind;
      IF after IS NULL OR (this_kind = 'CLAIMED' AND (NEW.payload ->> 'fence')::bigint <= task.fence) THEN
        PERFORM data_manager.refuse('DA001',
          CASE WHEN before = 'new'
            THEN format('the first event of context %s must be its :INITIAL, not %s', NEW.etl_context_id, NEW.type)
            ELSE format('%s may not follow in context %s, which is %s', NEW.type, NEW.etl_context_id, before) END,
          jsonb_build_object('etl_context_id', NEW.etl_context_id, 'type', NEW.type, 'state', before));
      END IF;

      IF NOT (data_manager.is_plain(NEW.payload) AND data_manager.is_plain(NEW.meta)) THEN
        PERFORM data_manager.refuse('DA007',
          format('payload or meta of %s holds a number that a double cannot hold, or is nested deeper than 128', NEW.type),
          jsonb_build_object('etl_context_id', NEW.etl_context_id, 'type', NEW.type));
      END IF;
      IF NOT data_manager.is_readable(this_kind, NEW.payload) THEN
        PERFORM data_manager.refuse('DA007', format('the payload of %s does not fit', NEW.type),
          jsonb_build_object('type', NEW.type, 'payload', NEW.payload));
      END IF;

      NEW.event_id := nextval('data_manager.event_store_event_id_seq');

      UPDATE data_manager.etl_contexts
        SET etl_status          = data_manager.etl_status_after(NEW.type),
            initial_event_id    = coalesce(initial_event_id, NEW.event_id),
            latest_event_id     = NEW.event_id,
            version             = NEW.version,
            _modified_timestamp = NEW._created_timestamp
        WHERE etl_context_id = NEW.etl_context_id;

      IF this_kind = 'TASK_INITIAL' THEN
        evolved := data_manager.evolve_task(data_manager.new_task(NEW), NEW, this_kind, after);
        INSERT INTO data_manager.dama_tasks SELECT evolved.*;
      ELSIF task.etl_context_id IS NOT NULL AND this_kind NOT IN ('EVENT', 'EVENT_ERROR', 'STEP', 'SUBTASK') THEN
        evolved := data_manager.evolve_task(task, NEW, this_kind, after);
        PERFORM data_manager.store_task(evolved);
        IF before IN ('claimed', 'running', 'cancelling', 'erred') AND after NOT IN ('claimed', 'running', 'cancelling', 'erred') THEN
          DELETE FROM data_manager.leases WHERE etl_context_id = NEW.etl_context_id;
        END IF;
      END IF;

      PERFORM data_manager.announce_event(NEW.etl_context_id, this_kind, evolved.state);
      RETURN NEW;
    END
  $$;

-- Removes whole ended trees of contexts: the single way in which an event is ever removed, for the owner of the log alone.
-- `damad archive` calls it once the archive that holds them is on the disk.
-- Given are contexts, and the version of each that was archived. A tree goes if all of it is given, in those versions, and
-- all of it has ended; else all of it stays. What is removed is returned.
-- The tree of the log's newest event stays: by that event a cursor of the feed knows the log again.
-- FOR UPDATE, so that nobody appends to one of them meanwhile, nor queues a child of it.
CREATE OR REPLACE FUNCTION data_manager.remove_contexts(ids bigint[], versions bigint[])
  RETURNS SETOF bigint
  LANGUAGE plpgsql
  SET damad.removes = 'yes'
  SET enable_seqscan = off
  AS $$
    DECLARE
      gone  bigint[];
    BEGIN
      PERFORM FROM data_manager.etl_contexts c
        WHERE c.etl_context_id = ANY (ids)
        ORDER BY c.etl_context_id
        FOR UPDATE;

      WITH RECURSIVE tree AS (
        SELECT c.etl_context_id AS id, c.etl_context_id AS root
          FROM data_manager.etl_contexts c
          WHERE c.etl_context_id = ANY (ids) AND c.parent_context_id IS NULL
        UNION ALL
        SELECT c.etl_context_id, t.root
          FROM tree t JOIN data_manager.etl_contexts c ON c.parent_context_id = t.id
      ), looked_at AS (
        SELECT t.id, t.root, (
          SELECT s.state IN ('done', 'failed', 'cancelled')
                 AND s.version = g.version
                 AND s.latest_event_id < (SELECT max(e.event_id) FROM data_manager.event_store e)
            FROM data_manager.context_states s WHERE s.etl_context_id = t.id
        ) IS TRUE AS ended
          FROM tree t LEFT JOIN unnest(ids, versions) AS g (id, version) ON g.id = t.id
      )
      SELECT array_agg(l.id) INTO gone
        FROM looked_at l
        WHERE l.root IN (SELECT whole.root FROM looked_at whole GROUP BY whole.root HAVING bool_and(whole.ended));

      DELETE FROM data_manager.cancel_intents i WHERE i.etl_context_id = ANY (gone);
      DELETE FROM data_manager.leases l WHERE l.etl_context_id = ANY (gone);
      DELETE FROM data_manager.dama_tasks t WHERE t.etl_context_id = ANY (gone);
      DELETE FROM data_manager.event_store e WHERE e.etl_context_id = ANY (gone);
      DELETE FROM data_manager.etl_contexts c WHERE c.etl_context_id = ANY (gone);
      RETURN QUERY SELECT unnest(gone);
    END
  $$;

REVOKE ALL ON FUNCTION data_manager.remove_contexts(bigint[], bigint[]) FROM PUBLIC;

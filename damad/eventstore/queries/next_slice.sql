-- The last of the next contexts that are looked at together, or NULL where there are none. Their versions say how many
-- events they have: about, for it is the projections that are in doubt.
-- $1: after this id · $2: contexts at most · $3: none after the one with which there are so many events
SELECT max(etl_context_id) AS up_to
  FROM (
    SELECT next.etl_context_id, sum(greatest(next.version, 0)) OVER (ORDER BY next.etl_context_id) - next.version AS before
      FROM (
        SELECT etl_context_id, version
          FROM data_manager.etl_contexts
          WHERE etl_context_id > $1
          ORDER BY etl_context_id
          LIMIT $2
      ) AS next
  ) AS counted
  WHERE before <= $3::bigint

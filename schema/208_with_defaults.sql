-- The meta of an :INITIAL event with the task settings that its queue has for tasks that do not say. They win over those
-- that the host's own configuration gave, which `defaults` names; what was asked for wins over both.
CREATE OR REPLACE FUNCTION data_manager.with_defaults(meta jsonb)
  RETURNS jsonb
  LANGUAGE sql STABLE
  RETURN coalesce((
    SELECT jsonb_set(meta, '{__dama_task_manager__}', asked.settings || defaults.settings || jsonb_build_object('defaults', (
             SELECT jsonb_agg(DISTINCT names.name ORDER BY names.name) FROM (
               SELECT jsonb_object_keys(defaults.settings)
               UNION ALL SELECT jsonb_array_elements_text(coalesce(asked.settings -> 'defaults', '[]'))
             ) AS names (name)
           )))
      FROM (SELECT meta -> '__dama_task_manager__' AS settings) AS asked
        JOIN data_manager.dama_queues q ON q.name = coalesce(asked.settings ->> 'queue', 'default')
        CROSS JOIN LATERAL (
          SELECT jsonb_object_agg(e.key, e.value) AS settings
            FROM jsonb_each(q.settings) AS e
            WHERE NOT asked.settings ? e.key OR coalesce(asked.settings -> 'defaults' ? e.key, false)
        ) AS defaults
      WHERE defaults.settings IS NOT NULL
        AND jsonb_typeof(asked.settings) = 'object'
        AND coalesce(jsonb_typeof(asked.settings -> 'defaults'), 'array') = 'array'
  ), meta);

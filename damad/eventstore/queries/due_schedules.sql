-- What time it is, and the schedules that have a tick by now, or one that waits. One row without a name if none has.
SELECT now.at, s.name
  FROM (SELECT clock_timestamp() AS at) AS now
    LEFT JOIN data_manager.dama_schedules s ON NOT s.paused AND (s.next_tick <= now.at OR s.buffered <> '{}')
  ORDER BY s.next_tick

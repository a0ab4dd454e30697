-- Who runs a claimed task, and until when (by the database's clock). Not a projection: whoever runs the
-- attempt renews its row, and never waits for the row of its context to do so.
-- holder: host/boot/pid/start time of the process, so that its death can be proved.
-- waiting: the attempt waits for others and holds no slot of its queue meanwhile.
-- beat_at: when the worker last said that it goes on, beside what it appended (the setting heartbeat).
CREATE TABLE IF NOT EXISTS data_manager.leases (
  etl_context_id  bigint PRIMARY KEY,
  fence           bigint NOT NULL,
  holder          text NOT NULL,
  until           timestamptz NOT NULL,
  waiting         boolean NOT NULL DEFAULT false,
  beat_at         timestamptz
);

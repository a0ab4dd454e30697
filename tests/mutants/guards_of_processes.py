"""The guards around processes, files and connections."""

from guard import Guard

PROCESSES = "damad/processes.py"
PARENT = "damad/runner/parent.py"
ATTEMPT = "damad/runner/attempt.py"
LISTENER = "damad/eventstore/listener.py"
AUTH = "damad/http/auth.py"
WORKERFILE = "damad/workerfile.py"
SUPERVISOR = "damad/scheduler/supervisor.py"

OBSERVATION = "damad/scheduler/observation.py"

STRANGER = "tests/test_processes.py::test_the_same_pid_with_another_start_time_or_boot_is_a_stranger"
WRITERS = "tests/test_processes.py::test_who_prints_into_a_file"
LEFT = "tests/faults/test_left_behind.py"
UNSEEN = f"{LEFT}::test_no_attempt_begins_while_a_child_lives_that_nobody_saw_and_that_was_killed_by"
RECORDS = "tests/test_run_records.py"
HEARD = "tests/test_listener.py"
RUNS = "tests/test_runner_exit_codes.py"
WHO = "tests/test_http_auth.py"
FILES = "tests/test_workerfile.py"

GUARDS = (
    # --- records and strangers ---
    Guard(
        "a session whose number a stranger has is the stranger's",
        PROCESSES,
        "(there is not None and there.start_time != leader.start_time)",
        "False",
        (f"{RECORDS}::test_a_stranger_that_took_the_pid_of_a_worker_over_brings_no_session_of_its_own",),
    ),
    Guard(
        "a process is named by numbers that may be its own",
        PROCESSES,
        "if numbers and 0 < pid <= _MOST_PIDS and start_time >= 0 else",
        "if True else",
        (f"{RECORDS}::test_a_process_named_by_a_value_of_the_wrong_sort_is_none",),
    ),
    Guard(
        "an exit record beside a living worker is another run's",
        OBSERVATION,
        "if ended is not None and not works:",
        "if ended is not None:",
        ("tests/faults/test_records.py::test_an_exit_record_of_another_run_ends_no_worker_that_lives",),
    ),
    Guard(
        "a stopped parent is woken once its worker is dead",
        OBSERVATION,
        "processes.send(known.parent, signal.SIGCONT)",
        "pass",
        ("tests/faults/test_processes_faults.py::test_a_stopped_parent_holds_up_neither_the_end_nor_the_next_attempt",),
    ),
    Guard(
        "who prints into a file has it open to append to it",
        PROCESSES,
        "if flags & os.O_APPEND and flags & os.O_ACCMODE == os.O_WRONLY:",
        "if flags or True:",
        (f"{WRITERS}_is_found_and_neither_who_reads_it_nor_who_writes_it_otherwise",),
    ),
    Guard(
        "a file is known by its number and not by its name",
        PROCESSES,
        "os.readlink(link) == name and os.path.samestat(os.stat(link), wanted)",
        "os.readlink(link).startswith(name)",
        ("tests/test_processes.py::test_a_file_of_the_same_name_that_took_the_place_of_another_has_no_writers",),
    ),
    Guard(
        "what a dead run left behind is ended before anything is said of it",
        OBSERVATION,
        "if process == decisions.LOST and not rival and self._left(key, started):",
        "if False:",
        (f"{LEFT}::test_no_attempt_begins_while_children_of_the_one_before_live",),
    ),
    Guard(
        "a parent that lives will say how its worker ended",
        OBSERVATION,
        "if known is None and self._watch_parent(key):",
        "if False:",
        (f"{LEFT}::test_how_a_worker_ended_is_waited_for_though_no_record_says_who_will_say_it",),
    ),
    Guard(
        "whatever a worker starts bears its mark",
        PARENT,
        "processes.mark(worker)  #",
        "pass  #",
        (UNSEEN,),
    ),
    Guard(
        "who bears a worker's mark was left by its run",
        OBSERVATION,
        "left |= {*processes.bearers(worker), *processes.members(worker)}",
        "left |= {*processes.members(worker)}",
        (UNSEEN,),
    ),
    Guard(
        "a mark says nothing after another boot",
        PROCESSES,
        "while marked.boot_id == boot_id() and not found",
        "while not found",
        ("tests/test_marks.py::test_a_mark_is_of_one_process_and_strangers_bear_none_of_it",),
    ),
    Guard(
        "what one started that ended while it was looked for is looked for too",
        PROCESSES,
        "complete = 0 if new else complete + 1",
        "complete = 2",
        ("tests/test_marks.py::test_one_that_ends_while_it_is_looked_for_has_what_it_started_found",),
    ),
    Guard(
        "launches that fail are counted for each task",
        SUPERVISOR,
        "failed = self._failed_launches[task.etl_context_id]",
        "failed = 0",
        ("tests/test_daemon.py::test_what_cannot_be_started_is_tried_ever_less_often_though_other_tasks_run",),
    ),
    Guard(
        "a listener that hears pauses but briefly the next time",
        LISTENER,
        "                    if self.hears:\n                        backoff.reset()",
        "                    pass",
        (f"{HEARD}::test_a_listener_that_hears_again_pauses_but_briefly_the_next_time",),
    ),
    Guard(
        "a worker for Node.js is refused where there is none",
        WORKERFILE,
        "if runs_on_node(path) and node() is None:",
        "if False:",
        (f"{FILES}::test_a_worker_for_node_is_refused_where_there_is_none",),
    ),
    Guard(
        "node ends with the process that it belongs to",
        "damad/runner/node_shim.mjs",
        'lines.on("close", () => process.kill(process.pid, "SIGKILL"));',
        "",
        ("tests/test_node_commands.py::test_node_ends_with_damads_process_also_where_nobody_is_left_to_end_it",),
    ),
    Guard(
        "damad's own loop knows its socket",
        "damad/background.py",
        "self._numbers = [self._selector.fileno(), *self._selector.get_map()]",
        "self._numbers = [self._selector.fileno()]",
        ("tests/test_background.py::test_when_another_file_took_the_place_of_its_own_whoever_asks_is_told",),
    ),
    Guard(
        "what nobody can read is refused by the database",
        "schema/130_judge_events.sql",
        "WHEN NOT (data_manager.is_plain(l.payload) AND data_manager.is_plain(l.meta)) THEN",
        "WHEN false THEN",
        ("tests/test_poison_writers.py::test_what_nobody_can_read_back_is_refused_whoever_inserts",),
    ),
    # --- processes by proof ---
    Guard(
        "a process is known by its start time",
        PROCESSES,
        "return identify(process.pid) == process",
        "return (found := identify(process.pid)) is not None and found.boot_id == process.boot_id",
        (STRANGER,),
    ),
    Guard(
        "a process is known by the boot of its machine",
        PROCESSES,
        "return identify(process.pid) == process",
        "return (found := identify(process.pid)) is not None and found.start_time == process.start_time",
        (STRANGER,),
    ),
    Guard(
        "a pidfd is checked after it was opened",
        PROCESSES,
        "    if alive(process):\n        return pidfd",
        "    if True:\n        return pidfd",
        (STRANGER,),
    ),
    Guard(
        "a zombie has ended",
        PROCESSES,
        'return None if stat is None or stat.state in "ZX" else',
        "return None if stat is None else",
        ("tests/test_processes.py::test_a_zombie_has_ended",),
    ),
    Guard(
        "a holder names a process to its own host only",
        PROCESSES,
        "if host != host_id or not",
        "if not",
        ("tests/test_processes.py::test_a_holder_names_the_process_to_its_own_host_only",),
    ),
    # --- a run and its records ---
    Guard(
        "a record is renamed into its place",
        "damad/runner/records.py",
        'new = path.with_suffix(".new")',
        "new = path",
        ("tests/test_run_records.py::test_who_reads_while_a_record_is_written_again_reads_the_old_one_to_its_end",),
    ),
    Guard(
        "a worker begins once it is on record who runs",
        PARENT,
        "os._exit(order[0] if order else 1)  # it is not",
        "pass  # it is not",
        (f"{RUNS}::test_a_worker_never_begins_whose_parent_died_before_it_was_on_record_who_runs",),
    ),
    Guard(
        "orphans of a worker become children of its parent",
        PARENT,
        "libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)",
        "pass",
        (f"{RUNS}::test_once_its_exit_is_on_record_nothing_is_left_of_a_run",),
    ),
    Guard(
        "what a worker leaves behind is ended",
        PARENT,
        'failpoints.hit("parent.reaped")\n    _end_leftovers()',
        'failpoints.hit("parent.reaped")',
        (f"{RUNS}::test_once_its_exit_is_on_record_nothing_is_left_of_a_run",),
    ),
    Guard(
        "a run whose claim is over never starts",
        "damad/runner/child.py",
        "raise attempt.not_mine(refusal) from None",
        "pass",
        (f"{RUNS}::test_a_second_runner_of_the_same_claim_ends_with_100",),
    ),
    Guard(
        "a run in a shared queue ends with its lease",
        ATTEMPT,
        "watchdog = _Watchdog(clock, lost) if claim.shared else None",
        "watchdog: _Watchdog | None = None",
        ("tests/test_attempt.py",),
    ),
    Guard(
        "a run elsewhere outlives its lease",
        ATTEMPT,
        "watchdog = _Watchdog(clock, lost) if claim.shared else None",
        "watchdog = _Watchdog(clock, lost)",
        ("tests/test_attempt.py",),
    ),
    # --- what may be lost on the way ---
    Guard(
        "what the supervisor appends carries an event_uuid",
        SUPERVISOR,
        "fresh = [msgspec.structs.replace(event, event_uuid=new_uuid()) for event in new]",
        "fresh = list(new)",
        ("tests/faults/test_sent_again.py::test_what_the_supervisor_appends_is_there_once_and_its_round_goes_on",),
    ),
    Guard(
        "what a run appends carries an event_uuid",
        "damad/events.py",
        "return event if event.event_uuid else msgspec.structs.replace(event, event_uuid=new_uuid())",
        "return event",
        ("tests/faults/test_sent_again.py::test_what_a_run_appends_is_there_once",),
    ),
    Guard(
        "what carries no event_uuid is not sent again",
        "damad/eventstore/store.py",
        "return all(event.event_uuid is not None for event in events)",
        "return True",
        ("tests/faults/test_sent_again.py::test_what_carries_no_uuid_is_not_sent_again",),
    ),
    Guard(
        "everybody polls when the listener is back",
        LISTENER,
        "                self._ring_all()\n",
        "",
        (f"{HEARD}::test_a_listener_whose_connection_ends_comes_back_and_wakes_everybody",),
    ),
    Guard(
        "the listener proves that it hears",
        LISTENER,
        "await self._prove(connection)",
        "self.hears = not self._answered.set()",
        (f"{HEARD}::test_a_listener_that_hears_nothing_knows_it_and_its_subscribers_poll",),
    ),
    Guard(
        "who waits for a deaf listener polls",
        LISTENER,
        "if not self._listener.hears:",
        "if False:",
        (f"{HEARD}::test_a_listener_that_hears_nothing_knows_it_and_its_subscribers_poll",),
    ),
    # --- one daemon, one schema ---
    Guard(
        "a state folder has one daemon",
        "damad/statefolder.py",
        "            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
        "            pass\n",
        (
            "tests/test_statefolder.py::test_a_second_daemon_is_refused_with_the_pid_of_the_first_for_as_long_as_it_lives",
        ),
    ),
    Guard(
        "a host has one id",
        "damad/statefolder.py",
        "os.link(draft, path)",
        "os.replace(draft, path) or draft.touch()",
        ("tests/test_statefolder.py::test_who_is_overtaken_while_it_draws_takes_the_id_that_is_there",),
    ),
    Guard(
        "nothing is migrated beside an older daemon",
        "damad/eventstore/migrate.py",
        "            await _refuse_beside_older_daemons(connection, pg_env)\n",
        "",
        (
            "tests/test_serving.py::test_a_migration_is_refused_while_an_older_daemon_serves_and_goes_on_when_it_has_gone",
        ),
    ),
    Guard(
        "a newer schema is left alone",
        "damad/eventstore/migrate.py",
        "        refuse_newer(before, pg_env)\n",
        "",
        ("tests/test_migrate.py::test_a_newer_schema_is_refused_and_left_as_it_is",),
    ),
    # --- who may ask, and what may run ---
    Guard(
        "the token is asked for",
        AUTH,
        "if found is None:",
        "if found is None and not sent:",
        (f"{WHO}::test_who_has_not_the_token_may_not_ask",),
    ),
    Guard(
        "the Host is asked for",
        AUTH,
        "if not _is_ours(given, (settings.host.lower(), *settings.host_names), address, on_socket=on_socket):",
        "if not given:",
        (f"{WHO}::test_another_host_is_misdirected",),
    ),
    Guard(
        "the Origin is asked for",
        AUTH,
        "    _check_origin(origin, host)\n",
        "",
        (f"{WHO}::test_a_page_of_another_origin_may_not_ask",),
    ),
    Guard(
        "whoever says something else on a connection is asked again",
        AUTH,
        "hmac.compare_digest(door.let_in, _introduction(request))",
        "door.let_in",
        (f"{WHO}::test_who_was_let_in_is_asked_again_when_they_say_something_else",),
    ),
    Guard(
        "pages of the origins in compat_open may ask the routes of the original, and no other",
        AUTH,
        "request.path.startswith(OPEN_TO_ORIGINS) and ",
        "",
        ("tests/test_http_original.py::test_nothing_else_is_open_to_anybody_else",),
    ),
    Guard(
        "half a head has its time",
        "damad/http/listening.py",
        "self._late = self._loop.call_later(self._head_timeout, self._say_that_it_is_late)",
        "pass",
        ("tests/test_http_requests.py::test_half_a_head_is_408_when_its_time_is_over",),
    ),
    Guard(
        "an append is refused for another version than If-Match names",
        "damad/http/events.py",
        "        expected[0] = _agreed(if_match, expected[0])\n",
        "        _agreed(if_match, expected[0])\n",
        ("tests/test_http_conditions.py::test_an_event_for_another_version_is_412",),
    ),
    Guard(
        "a snapshot in a cursor is one before Postgres sees it",
        "damad/http/cursors.py",
        " or not all(_is_snapshot(sight) for sight in sights)",
        "",
        ("tests/test_http_feed.py::test_what_is_no_cursor_is_422",),
    ),
    Guard(
        "a token that others can read is none",
        "damad/tokens.py",
        "if mode & 0o077:",
        "if False:",
        (f"{WHO}::test_a_token_that_others_can_read_is_refused",),
    ),
    Guard(
        "a worker that others can write is none",
        WORKERFILE,
        "if mode & stat.S_IWOTH:",
        "if False:",
        (f"{FILES}::test_what_others_can_write_is_refused_up_to_the_root",),
    ),
    Guard(
        "a worker is a regular file",
        WORKERFILE,
        "if not stat.S_ISREG(mode):",
        "if False:",
        (f"{FILES}::test_a_folder_is_no_worker_whatever_its_name", f"{FILES}::test_a_pipe_is_no_worker"),
    ),
)

"""The guards around the one way in which an event is ever removed."""

from guard import Guard

REMOVES = "schema/240_remove_contexts.sql"
ARCHIVE = "tests/test_archive.py"

GUARDS = (
    Guard(
        "only the owner may call what removes",
        REMOVES,
        "REVOKE ALL ON FUNCTION data_manager.remove_contexts(bigint[], bigint[]) FROM PUBLIC;",
        "",
        (f"{ARCHIVE}::test_nobody_but_the_owner_removes",),
    ),
    Guard(
        "an open tree stays",
        REMOVES,
        "s.state IN ('done', 'failed', 'cancelled')\n                 AND ",
        "",
        (f"{ARCHIVE}::test_the_function_leaves_an_open_tree_alone_whatever_it_is_given",),
    ),
    Guard(
        "what was not archived stays, with its tree",
        REMOVES,
        "                 AND s.version = g.version\n",
        "",
        ("tests/test_archive_crashes.py::test_a_tree_that_changes_after_it_was_archived_stays",),
    ),
    Guard(
        "the tree of the newest event stays",
        REMOVES,
        "\n                 AND s.latest_event_id < (SELECT max(e.event_id) FROM data_manager.event_store e)",
        "",
        ("tests/test_archive_feed.py::test_the_tree_of_the_newest_event_stays_until_another_one_is_newer",),
    ),
    Guard(
        "an archive that is being written is nobody's to clear away",
        "damad/archive.py",
        "            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
        "",
        ("tests/test_archive_crashes.py::test_what_another_writes_just_now_is_not_taken_for_torn",),
    ),
)

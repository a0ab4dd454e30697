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
)

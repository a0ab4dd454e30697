"""The tree of errors: each class knows its HTTP status, its exit code and its problem's name."""

import re

import pytest

from damad import errors


def every(kind: type[errors.DamadError]) -> list[type[errors.DamadError]]:
    return [kind, *(deeper for child in kind.__subclasses__() for deeper in every(child))]


OURS = [kind for kind in every(errors.DamadError) if kind.__module__ == "damad.errors"]


def named(kind: type[errors.DamadError]) -> str:
    return kind.__name__


@pytest.mark.parametrize(
    ("kind", "status", "exit_code"),
    [
        (errors.InvalidInput, 422, 2),
        (errors.InvalidJson, 400, 2),
        (errors.InvalidWorker, 422, 2),
        (errors.NotFound, 404, 2),
        (errors.Conflict, 409, 2),
        (errors.IllegalTransition, 409, 2),
        (errors.StaleFence, 409, 2),
        (errors.VersionConflict, 409, 2),
        (errors.EventUuidConflict, 409, 2),
        (errors.IdempotencyConflict, 409, 2),
        (errors.BrokenLog, 409, 2),
        (errors.Unavailable, 503, 2),
        (errors.ContextBusy, 503, 2),
    ],
)
def test_a_refusal_has_the_status_and_the_exit_code_of_the_contract(
    kind: type[errors.DamadError], status: int, exit_code: int
) -> None:
    assert (kind.status, kind.exit_code) == (status, exit_code)


@pytest.mark.parametrize(
    ("kind", "exit_code"), [(errors.TaskFailed, 1), (errors.TaskCancelled, 2), (errors.ConfigError, 2)]
)
def test_the_command_line_ends_as_the_contract_says(kind: type[errors.DamadError], exit_code: int) -> None:
    assert kind.exit_code == exit_code


@pytest.mark.parametrize("kind", OURS, ids=named)
def test_every_problem_has_a_name_fit_for_a_urn_and_a_title(kind: type[errors.DamadError]) -> None:
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", kind.problem)
    assert kind.title


def test_every_class_stands_in_the_tree_that_the_module_draws() -> None:
    drawn = re.findall(r"^[ │├└─]*([A-Z][A-Za-z]+)", errors.__doc__ or "", re.MULTILINE)
    assert sorted(drawn[1:]) == sorted(kind.__name__ for kind in OURS)


def test_an_error_carries_the_values_that_a_caller_needs() -> None:
    error = errors.IllegalTransition("no", etl_context_id=7, state="done")
    assert (str(error), error.values) == ("no", {"etl_context_id": 7, "state": "done"})


def test_bad_input_points_to_the_field_that_is_to_blame() -> None:
    assert errors.InvalidInput("no", pointer="/type").pointer == "/type"
    assert errors.InvalidInput("no").pointer is None


def test_retry_in_and_snooze_say_when_and_no_retry_says_why() -> None:
    for kind in (errors.RetryIn, errors.Snooze):
        assert kind(30).seconds == 30
        assert "30" in str(kind(30))
    assert str(errors.NoRetry("the file is empty")) == "the file is empty"

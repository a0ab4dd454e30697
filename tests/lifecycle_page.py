"""Writes docs/lifecycle.md out of the table of transitions: `make docs`."""

from damad.model.lifecycle import ENDED, TRANSITIONS

HEAD = """# The lifecycle

Made by `make docs` from `TRANSITIONS` in `damad/model/lifecycle.py`. What is not here is refused, by damad and by the
database.

`EVENT` is any event of a worker or of the world outside, `EVENT_ERROR` one whose type ends in `:ERROR`; `INITIAL` and
`FINAL` are those whose types end so, `TASK_INITIAL` is an `:INITIAL` that carries task settings. The others are
damad's own, `dama/task:CLAIMED` and so on. `erred` lasts only between the two events of one append: `ERROR`, and what
follows from it. A `queued` task whose time has not come is `scheduled`.
"""


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, *_diagram(), "", *_table(), ""])


def _diagram() -> list[str]:
    arrows: dict[tuple[str, str], list[str]] = {}
    for (state, kind), after in TRANSITIONS.items():
        if state != after:
            arrows.setdefault((state, after), []).append(kind)
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> new"]
    lines += [f"    {state} --> {after}: {', '.join(kinds)}" for (state, after), kinds in arrows.items()]
    lines += [f"    {state} --> [*]" for state in sorted(ENDED)]
    return [*lines, "```"]


def _table() -> list[str]:
    states = list(dict.fromkeys([state for state, _ in TRANSITIONS] + list(TRANSITIONS.values())))
    kinds = list(dict.fromkeys(kind for _, kind in TRANSITIONS))
    lines = [f"| | {' | '.join(states)} |", "|---" * (len(states) + 1) + "|"]
    for kind in kinds:
        cells = (TRANSITIONS.get((state, kind), "") for state in states)
        lines.append(f"| `{kind}` | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    print(page(), end="")

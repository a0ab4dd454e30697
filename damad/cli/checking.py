"""verify: whether what damad shows is what its events say."""

from damad.cli.options import Json, Where


def verify(*, json: Json = False, where: Where | None = None) -> int:
    """Fold every context and compare with the projections. Exit code 1 if one is not what its events say."""
    from damad.cli import session

    return session.go(_verify(json, where or Where()))


async def _verify(json: bool, where: Where) -> int:
    from damad.cli import render, session
    from damad.eventstore.verify import verify as compare_all

    async with session.opened(where) as ambient:
        report = await compare_all(ambient.store.database)
    if json:
        render.as_json(report)
    else:
        print(f"{report.contexts} contexts, {report.events} events, {len(report.mismatches)} mismatches")
        if report.mismatches:
            render.mismatches(report.mismatches)
    return 1 if report.mismatches else 0

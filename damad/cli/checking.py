"""verify, rebuild, doctor: whether what damad shows is what its events say, making it so, what is wrong around it."""

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
        if report.legacy:
            render.legacy(report.legacy)
    return 1 if report.mismatches else 0


def rebuild(*, json: Json = False, where: Where | None = None) -> int:
    """Make every projection what its events say, while others go on. Exit code 1 if events break the rules."""
    from damad.cli import session

    return session.go(_rebuild(json, where or Where()))


async def _rebuild(json: bool, where: Where) -> int:
    from damad.cli import render, session
    from damad.eventstore.rebuild import rebuild as mend_all

    async with session.opened(where) as ambient:
        rebuilt = await mend_all(ambient.store.database)
    if json:
        render.as_json(rebuilt)
    else:
        print(f"{rebuilt.contexts} contexts, {rebuilt.events} events, {rebuilt.mended} mended")
        if rebuilt.broken:
            render.mismatches(rebuilt.broken)
    return 1 if rebuilt.broken else 0


def doctor(*, json: Json = False, where: Where | None = None) -> int:
    """Look at server, schema, clock, listener, leases, runs, worker roots, schedules. Exit code 1 if one is unwell."""
    from damad.cli import session

    return session.go(_doctor(json, where or Where()))


async def _doctor(json: bool, where: Where) -> int:
    from damad.cli import render, session
    from damad.doctor import examine

    settings = session.configuration(where)
    async with session.opened(where, settings, schema=False) as ambient:
        findings = await examine(ambient, settings)
    if json:
        render.as_json(findings)
    else:
        render.findings(findings)
    return 0 if all(finding.well for finding in findings) else 1

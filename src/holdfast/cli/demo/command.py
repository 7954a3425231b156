"""The sub-command `demo`: prepares the place, has the crawl driven, and compares."""

import click

FOUND = 1  # the exit code


@click.command()
@click.option(
    "--at", type=click.Path(), help="The hold to write; by default one in the directory for temporary files."
)
@click.option("--from", "first", default="asyncio", show_default=True, help="The module to begin with.")
@click.option("--workers", type=click.IntRange(2, 64), default=4, show_default=True)
@click.option(
    "--pace", type=click.FloatRange(0), default=0.04, hidden=True, help="Seconds that a module takes."
)
@click.option(
    "--lease", type=click.FloatRange(0.05), default=1.0, hidden=True, help="Seconds that a claim lasts."
)
@click.pass_context
def demo(context: click.Context, at: str | None, first: str, workers: int, pace: float, lease: float) -> None:
    """See it work: a crawl by four processes that is killed twice, resumes, and ends complete.

    It reads the standard library's own sources, and compares what comes out with a crawl by one plain process:
    exit code 1 if they differ.
    """
    from holdfast.cli.demo.performance import perform

    if not perform(at, first, workers, lease, pace):
        context.exit(FOUND)

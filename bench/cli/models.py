"""`bench models`."""

import click

from bench.cli import options
from bench.messages import one_line


@click.group("models", cls=options.WithList, short_help="List the models, or check one against the contract.")
def command() -> None:
    """The models: list them (the default), or check one against the contract."""


@command.command("list", short_help="All models with their tasks (the default).")
@click.option(
    "--recbole", is_flag=True, help="RecBole's classes: which the bridge runs, and why it refuses the others."
)
@options.output_format("text", "json")
@options.debug
def list_(form: str, recbole: bool) -> None:
    """All models: those that come with bench and those of installed packages."""
    from bench.ranker import registry

    if recbole:
        _list_members("recbole:", form)
        return

    records = [entry.record() for entry in registry.entries().values()]
    if form == "json":
        import json

        print(json.dumps(records, indent=1))
        return
    for group in registry.GROUPS:
        chosen = [record for record in records if record["group"] == group]
        if chosen:
            print(f"{group}:")
        for record in chosen:
            package = "" if record["package"] == "bench" else f" (from {record['package']})"
            cite = f"; {record['cite']}" if record["cite"] else ""
            facts = one_line(f"{record['title']}{cite}{package}")
            print(f"  {record['name']:<20} {record['tasks']:<11} {facts}")
    for prefix, family in registry.families().items():
        print(f"{prefix + '<Class>':<22} {family.facts['title']} (bench models --{prefix[:-1]})")


def _list_members(family: str, form: str) -> None:
    """The models of a family, and those that it refuses with the reason."""
    from bench.ranker import registry

    members = registry.members(family)
    if form == "json":
        import json

        print(json.dumps(members, indent=1))
        return
    for kind in dict.fromkeys(member["kind"] for member in members):
        print(f"{kind}:")
        for member in members:
            if member["kind"] == kind and not member["refused"]:
                print(f"  {member['name']}")
    print("refused:")
    for member in members:
        if member["refused"]:
            print(f"  {member['name']:<20} {one_line(member['refused'])}")


@command.command("check", short_help="Run the conformance checks on a model.")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@options.debug
@click.pass_context
def check(ctx: click.Context, names: tuple[str, ...]) -> None:
    """Run the checks that the models of bench pass on a model by name; exit code 1 when one fails."""
    from bench.ranker import registry

    for name in names:
        registry.entry(name)
    from bench import testing

    reports = [testing.check(name) for name in names]
    for report in reports:
        print(report.text())
    if not all(report.ok for report in reports):
        ctx.exit(1)

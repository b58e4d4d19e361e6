"""`bench tune`."""

from pathlib import Path
from typing import Any

import click

from bench.cli import options


class _WithStart(options.WithDefault):
    """A group whose `start` may be left out: `bench tune --models sasrec`."""

    default_command = "start"


@click.group("tune", cls=_WithStart, short_help="Search the settings of models with Ray Tune.")
def command() -> None:
    """Search the settings of models (`start` may be left out), or show what was found.

    \b
    bench tune --models unisar,sasrec --dataset ml-100k --trials 8
    bench tune show
    bench run --models unisar,sasrec --tuned
    """


@command.command("start", short_help="Search (the default).")
@click.option("--models", required=True, metavar="NAMES", help="Models or groups with commas; each is searched.")
@click.option(
    "--dataset",
    multiple=True,
    callback=options.comma_list,
    default=["ml-100k"],
    metavar="NAMES",
    help="Data sets.  [default: ml-100k]",
)
@click.option(
    "--trials", type=click.IntRange(1), default=20, show_default=True, metavar="N", help="Budget of each model."
)
@click.option(
    "--spread",
    type=click.IntRange(0),
    default=2,
    show_default=True,
    metavar="N",
    help="Further seeds of the default settings, to tell a find from noise; outside the budget.",
)
@click.option("--search", type=click.Choice(["random", "optuna"]), default="random", show_default=True, help="Sampler.")
@click.option(
    "--scheduler",
    type=click.Choice(["asha", "none"]),
    default="asha",
    show_default=True,
    help="Ends poor trials early.",
)
@options.tasks
@options.split_and_mode
@click.option("--seed", type=options.SEED, default=0, metavar="N", help="Of the search and the fits.  [default: 0]")
@options.settings
@click.option("--budget", type=click.Choice(["quick", "full"]), default="quick", show_default=True, help="Of each fit.")
@click.option(
    "--validation-rows", type=click.IntRange(min=0), default=0, metavar="N", help="At most N a task.  [default: all]"
)
@options.device
@click.option(
    "--threads",
    type=click.IntRange(0, options.MOST_THREADS),
    default=0,
    metavar="N",
    help="Of a trial.  [default: all]",
)
@click.option(
    "--jobs",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="Trials at once. With several, what ends early depends on which is faster.",
)
@click.option(
    "--time-limit",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="SECONDS",
    help="A trial over it did not finish.  [default: none]",
)
@click.option("--address", type=options.Text(), metavar="HOST:PORT", help="Ray cluster.  [default: this machine]")
@click.option("--gpus", type=float, metavar="X", help="GPUs of a trial, such as .5.  [default: 1 on cuda]")
@click.option("--resume/--force", "resume", default=True, help="Keep trials that are there (default), or begin anew.")
@options.out
@options.data
@options.tracking_uri
@options.quiet
@options.debug
def start(**given: Any) -> None:
    """Search the settings of models on validation rows: the same number of trials for each, the first with the defaults.

    What a trial can open holds no test row. A search that was interrupted goes on with the same trials.

    \b
    bench tune --models unisar,sasrec --dataset ml-100k --trials 8
    """
    from bench.experiments.settings import Overrides
    from bench.experiments.tuning.request import TuneRequest
    from bench.experiments.tuning.tune import tune
    from bench.store.mlflow_studies import StudyTracker
    from bench.store.results import Store

    quiet = given.pop("quiet")
    request = TuneRequest(overrides=Overrides.parse(given.pop("settings")), **given | {"tasks": given["tasks"] or None})
    tracker = StudyTracker(Store(request.out), request.tracking_uri)
    tune(request, options.reporter(quiet), tracker.write)
    if not quiet:
        print(f"`bench tune show{options.out_hint(given['out'])}` shows the searches; `bench run --tuned` uses them")


@command.command("show", short_help="What was found, with figures.")
@click.option("--models", metavar="NAMES", help="Only these models.")
@click.option("--dataset", metavar="NAME", help="Only this data set.")
@click.option("--no-figures", is_flag=True, help="Write no PNG files.")
@options.out
@options.debug
def show(models: str | None, dataset: str | None, no_figures: bool, out: Path) -> None:
    """The trials of each search, what they cost, and whether the best is more than the noise of seeds.

    Figures (history, importance of the settings, parallel coordinates) are written into the folder of the search.
    """
    from bench.messages import split_commas
    from bench.report.tuning import describe, write_figures
    from bench.store.results import Store
    from bench.store.studies import studies

    wanted = split_commas(models or "")
    shown = [
        study
        for study in studies(Store(out))
        if (not wanted or study.record.model in wanted) and dataset in (None, study.record.dataset["name"])
    ]
    if not shown:
        print(f"no search in {out}; start one: bench tune --models sasrec --trials 8{options.out_hint(out)}")
    for study in shown:
        print("\n".join(describe(study)))
        if not no_figures:
            for path in write_figures(study):
                print(f"  {path}")

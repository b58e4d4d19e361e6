"""`bench analyze`."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.cli import options
from bench.messages import one_line

if TYPE_CHECKING:
    from bench.analysis.output import Analysis
    from bench.experiments.progress import Reporter
    from bench.experiments.run import RunRequest


@click.group(
    "analyze", cls=options.Group, short_help="Mutual information, parameter space, gradients, ablation, sweep."
)
def command() -> None:
    """The analyses of the GenSR paper, for any model.

    Each writes tables (CSV, LaTeX), figures (PNG, PDF) and an MLflow run, and fits first what is not there.
    """


def _request(run: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say which runs are analysed."""
    for option in (
        options.debug,
        options.quiet,
        options.tracking_uri,
        click.option(
            "--to", type=options.PATH, metavar="DIR", help="Where tables and figures go.  [default: OUT/analyses/NAME]"
        ),
        options.data,
        options.out,
        click.option(
            "--threads",
            type=click.IntRange(0, options.MOST_THREADS),
            default=0,
            metavar="N",
            help="Part of a fit's key.",
        ),
        options.device,
        click.option(
            "--budget", type=click.Choice(["quick", "full"]), default="quick", show_default=True, help="Of the fits."
        ),
        options.settings,
        click.option(
            "--seeds", default="0", callback=options.seeds, metavar="N,N", help="Seeds of the fits.  [default: 0]"
        ),
        options.split_and_mode,
        options.tasks,
        click.option(
            "--dataset",
            multiple=True,
            callback=options.comma_list,
            default=["ml-100k"],
            metavar="NAMES",
            help="Data sets.  [default: ml-100k]",
        ),
        click.option("--models", required=True, metavar="NAMES", help="Models with commas."),
    ):
        run = option(run)
    return run


def _metric(run: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--metric", default="N@10", show_default=True, metavar="NAME", help="What is compared.")(run)


@command.command("mi", short_help="Mutual information of input and answer (Table 1).")
@_request
@options.placement
@click.option(
    "--negatives",
    type=click.IntRange(1, 99),
    default=9,
    show_default=True,
    metavar="N",
    help="Candidates per test row beside the clicked item.",
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    default=4000,
    show_default=True,
    metavar="N",
    help="Training of the estimator.",
)
@click.option("--paper", is_flag=True, help="Set the published values beside.")
def mi(negatives: int, steps: int, paper: bool, **given: Any) -> None:
    """Mutual information between what a model reads and what it answers, in nats.

    MINE (Donsker-Varadhan, held-out) and InfoNCE beside the exact value, which is known because the answer is drawn with
    the model's own probability.
    """
    from bench.analysis import analyses

    def work(request: "RunRequest", reporter: "Reporter") -> "Analysis":
        return analyses.mutual_information_of(request, negatives, steps, _published() if paper else None, reporter)

    _run("mi", work, given)


@command.command("space", short_help="Where the two tasks lie (Figure 3).")
@_request
@options.placement
@click.option(
    "--tsne-seeds", type=click.IntRange(1, 20), default=3, show_default=True, metavar="N", help="Layouts per fit."
)
def space(tsne_seeds: int, **given: Any) -> None:
    """t-SNE of what a model reads, principal components of its hidden states, and how much the tasks overlap."""
    from bench.analysis import analyses

    _run("space", lambda request, reporter: analyses.parameter_space(request, tsne_seeds, reporter), given)


@command.command("gradients", short_help="Cosine of the tasks' gradients through training.")
@_request
@click.option(
    "--batches",
    type=click.IntRange(1, 1000),
    default=8,
    show_default=True,
    metavar="N",
    help="Batches that are looked at.",
)
@click.option(
    "--parameters", default="*", show_default=True, metavar="PATTERN", help="Names of parameters, as '*attention*'."
)
@click.option(
    "--validation-rows",
    type=click.IntRange(min=0),
    default=100,
    show_default=True,
    metavar="N",
    help="Of each task at a check; they decide only whether a fit stops early. 0 means all.",
)
def gradients(batches: int, parameters: str, **given: Any) -> None:
    """Cosine between the gradients of both tasks on the parameters that they share.

    Fits the models anew, one after the other in this process; nothing of it enters a table.
    """
    from bench.analysis import analyses

    _run(
        "gradients", lambda request, reporter: analyses.gradient_conflict(request, batches, parameters, reporter), given
    )


@command.command("lemma", short_help="Lemma 5.1 in closed form and by simulation.")
@click.option(
    "--dimensions", type=click.IntRange(2, 1000), default=8, show_default=True, metavar="N", help="Of the input."
)
@click.option(
    "--noise",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="Variance of the noise.",
)
@click.option("--seed", type=options.SEED, default=0, show_default=True, metavar="N", help="Of truth and samples.")
@options.out
@click.option(
    "--to", type=options.PATH, metavar="DIR", help="Where tables and figures go.  [default: OUT/analyses/lemma]"
)
@options.tracking_uri
@options.quiet
@options.debug
def lemma(dimensions: int, noise: float, seed: int, **given: Any) -> None:
    """Where the paper's lemma 5.1 holds and where it does not, in the linear-Gaussian case. Needs no data."""
    from bench.analysis import analyses

    _finish(analyses.lemma_5_1(dimensions, noise, seed), given)


@command.command("ablation", short_help="What each part of a model brings (Figure 4).")
@_request
@options.placement
@_metric
def ablation(metric: str, **given: Any) -> None:
    """A model against itself with the parts taken away that it declares."""
    from bench.analysis import analyses

    _run("ablation", lambda request, reporter: analyses.ablation(request, metric, reporter), given)


@command.command("sweep", short_help="A model under other settings (Figure 5).")
@_request
@options.placement
@click.option("--grid", "grids", multiple=True, metavar="MODEL.KEY=A,B", help="Values of a setting. Repeatable.")
@_metric
def sweep(grids: tuple[str, ...], metric: str, **given: Any) -> None:
    """A model under other values of its settings, one setting at a time.

    \b
    bench analyze sweep --models gensr --grid gensr.temperature=0.01,0.07,0.5 --grid gensr.contrast=0,0.01,0.1
    """
    from bench.analysis import analyses

    _run("sweep", lambda request, reporter: analyses.sweep(request, grids, metric, reporter), given)


@command.command("draw", short_help="Figures and LaTeX of a folder anew, from its tables.")
@click.argument("folder", type=options.PATH)
@options.quiet
@options.debug
def draw(folder: Path, quiet: bool) -> None:
    """Draw the figures of an analysis and set its LaTeX tables anew from its CSV files. Nothing is computed."""
    from bench.analysis.output import redraw

    for path in redraw(folder):
        if not quiet:
            print(path)


def _run(name: str, work: "Callable[[RunRequest, Reporter], Analysis]", given: dict[str, Any]) -> None:
    from bench.experiments.run import RunRequest
    from bench.experiments.settings import Overrides

    rest = {key: given.pop(key) for key in ("to", "quiet")}
    reporter = options.reporter(rest["quiet"])
    request = RunRequest(
        overrides=Overrides.parse(given.pop("settings")),
        tasks=given.pop("tasks") or None,
        trivial=False,
        **given,
    )
    _finish(work(request, reporter), rest | {"out": request.out, "tracking_uri": request.tracking_uri})


def _finish(analysis: "Analysis", given: dict[str, Any]) -> None:
    """Write the result, and print the main table, the remarks and where everything is."""
    from tabulate import tabulate

    from bench.analysis.output import write
    from bench.store.results import Store

    store = Store(given["out"])
    folder = given["to"] or Path(given["out"]) / "analyses" / analysis.name
    write(analysis, folder, store, given["tracking_uri"])
    if given["quiet"]:
        return
    for name in (analysis.name, f"{analysis.name}-differences"):
        if not len(analysis.tables.get(name, ())):
            continue
        frame = analysis.tables[name].dropna(axis=1, how="all")
        # Values of a setting span powers of ten.
        formats = ["g" if column == "value" else ".3f" for column in frame.columns]
        print(tabulate(frame.fillna("").values.tolist(), headers=list(map(str, frame.columns)), floatfmt=formats))
    for remark in analysis.remarks:
        print(one_line(remark))
    print(f"tables and figures in {folder}")


def _published() -> Any:
    """The paper's Table 1."""
    from importlib import resources

    import pandas as pd

    with (resources.files("bench.analysis") / "published_mi.csv").open() as file:
        return pd.read_csv(file)

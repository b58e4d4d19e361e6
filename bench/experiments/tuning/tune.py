"""`bench tune`: the same number of trials for every model, chosen by the validation rows."""

from bench.errors import UsageError
from bench.experiments.plan import plan
from bench.experiments.progress import Reporter
from bench.experiments.tuning.request import TuneRequest
from bench.experiments.tuning.search import Heard, Search
from bench.experiments.tuning.without_test import search_data
from bench.messages import split_commas
from bench.ranker import registry
from bench.store.results import Store
from bench.store.studies import Study


def tune(request: TuneRequest, reporter: Reporter | None = None, track: Heard | None = None) -> list[Study]:
    """Search the settings of models; trials that are there are not repeated.

    Args:
        request: the words of the command.
        reporter: shows the progress; silent by default.
        track: hears of each trial that is over and, with None, of the study's beginning and end.

    Raises:
        UsageError: something in the request cannot be; nothing has been started then.
        RunError: the cluster is not there, or a file cannot be written.
    """
    reporter = reporter or Reporter()
    request.check()
    store = Store(request.out)
    store.check_writable()
    planned = plan(request.as_run())
    named = set(split_commas(request.models))
    searches = []
    for each in planned:
        data = search_data(each.prepared)
        for job in each.jobs:
            if registry.get(job.model).search_space:
                searches.append(Search(request, store, each, job, data))
            elif job.model in named:
                raise UsageError(f"{job.model} declares no search space; leave it out, or see docs/add-a-model.md")
            else:
                reporter.note(f"{job.model}: left out, it declares no search space")
    if not searches:
        raise UsageError(f"none of the models {request.models} declares a search space")
    from bench.experiments.executors.on_ray import cluster

    bound = f" of at most {request.time_limit:g} s" if request.time_limit else ""
    reporter.note(
        f"budget of each of {len(searches)} searches: {request.trials} trials{bound} of --budget {request.budget}, the first with "
        f"the default settings; {request.spread} further seeds of the default beside them"
    )
    done = []
    waiting = [search for search in searches if not search.complete]
    if waiting:
        with cluster(request.address, max(search.job.threads for search in waiting) * request.jobs) as ray:
            for search in searches:
                done.append(search.run(ray, reporter, track))
    else:
        done = [search.run(None, reporter, track) for search in searches]
    return done

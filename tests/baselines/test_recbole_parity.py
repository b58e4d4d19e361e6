"""Every bridged class of RecBole ranks 100 candidates as RecBole's evaluation does.

RecBole's full ranking, its default, takes `full_sort_predict`, and `predict` of every pair for a class that has no other.
"""

import importlib.util

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.baselines.recbole import classes
from bench.data.batch import Batch, Batches
from bench.data.catalog import Catalog
from bench.data.split import LogSplit, split
from bench.data.training import TrainData
from bench.ranker import registry
from bench.ranker.contract import Context, Ranker

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(importlib.util.find_spec("recbole") is None, reason="RecBole is not installed"),
]
CANDIDATES = 100
# Classes whose `predict` gives other numbers than the `full_sort_predict` that RecBole ranks by, and why.
DIFFERENT = {
    "recbole:CORE": "`predict` takes item embeddings as they are, the full ranking normalises them",
    "recbole:FISM": "`predict` takes the sigmoid twice, the full ranking not at all; the order is the same",
}
# Classes whose ways of scoring end in `self.sigmoid`; what is compared is the logit before it.
LAST_SIGMOID = {"recbole:DIN", "recbole:DIEN", "recbole:NeuMF", "recbole:DMF"}


def ready(name: str, parts: LogSplit) -> Ranker:
    """Built, and with random weights, biases included, so that nothing is equal because it is zero."""
    cls = registry.get(name)
    model = cls(cls.Config(batch_size=64, history_rec=6), Context(Catalog(parts.log), seed=0, tasks=("rec",)))
    train = TrainData(Batches(parts), ("rec",), 0)
    model.precompute(train)
    if name == "recbole:Pop":  # it counts in its loss
        model.loss(next(iter(train.events(64, negatives=4, window=model.window).batches(0, 1))))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def rows_of(batch: Batch) -> dict[str, Tensor]:
    """Rows as RecBole reads them, made here from the batch; DIEN wants negatives in place, which its scores do not read."""
    width = batch.rec_items.shape[1]
    seen = torch.where(torch.arange(width) < batch.rec_len[:, None], batch.rec_items, 0)
    return {"user_id": batch.user, "item_id_list": seen, "neg_item_id_list": seen, "item_length": batch.rec_len}


@torch.no_grad()
def own(name: str, model: Ranker, batch: Batch) -> dict[str, Tensor]:
    """(B, K) scores by each of RecBole's two ways that the class has, without a last sigmoid."""
    found, rows = {}, rows_of(batch)
    pairs = {key: value.repeat_interleave(batch.cand.shape[1], 0) for key, value in rows.items()}
    ways = {
        "predict": lambda: model.net.predict(pairs | {"item_id": batch.cand.flatten()}).view(batch.cand.shape),
        "full_sort_predict": lambda: model.net.full_sort_predict(rows).view(len(batch), -1).gather(1, batch.cand),
    }
    with pytest.MonkeyPatch.context() as patch:
        if name in LAST_SIGMOID:
            patch.setattr(model.net, "sigmoid", nn.Identity())
        for way, scored in ways.items():
            try:
                found[way] = scored().float()
            except NotImplementedError:
                continue
    return found


@pytest.mark.slow
def test_every_bridged_class_scores_as_recbole_does(make_log):
    small = split(make_log(n_users=20, n_items=130, length=16))
    bridged = [line["name"] for line in classes.listing() if not line["refused"]]
    assert len(bridged) > 40
    rows = small.rows("test", "rec")
    cand = np.random.default_rng(1).permuted(np.tile(np.arange(1, len(small.log.items) + 1), (len(rows), 1)), axis=1)
    wrong, different, unbounded = {}, {}, set()
    for name in bridged:
        model = ready(name, small)
        batch = Batches(small).rows(rows, cand[:, :CANDIDATES], model.window)
        if classes.is_sequential(classes.known_classes()[name.removeprefix("recbole:")]):
            batch = batch.take(batch.rec_len > 0)
        with torch.no_grad():
            found = model.score(batch)
        expected = own(name, model, batch)
        gaps = {way: float((found - theirs).abs().max()) for way, theirs in expected.items()}
        ranked_by = "full_sort_predict" if "full_sort_predict" in gaps else "predict"
        # NNCF's scores are probabilities of about 1e-4, for which 1e-5 would be no bound.
        if not gaps or not gaps[ranked_by] <= 1e-5 * min(1.0, float(expected[ranked_by].std())):
            wrong[name] = gaps
        # Another order of the same sums: float32 has no more than seven digits.
        if "predict" in gaps and gaps["predict"] > 1e-5 + 1e-6 * float(expected["predict"].abs().max()):
            different[name] = gaps["predict"]
        unbounded |= {name} if found.min() < 0 or found.max() > 1 else set()
    assert not wrong
    assert set(different) == set(DIFFERENT), different
    assert unbounded >= LAST_SIGMOID, "logits have no bounds"

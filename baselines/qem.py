"""QEM: query and item in one space, without a user (the non-personalised model of Ai et al., CIKM 2019)."""

from bench.ranker.blocks.product_search import ProductSearch, ProductSearchConfig
from bench.ranker.registry import register


class QEMConfig(ProductSearchConfig):
    """The family's settings; `text_weight=0` is an ablation, not the model."""


@register("qem", title="QEM", tasks=("search",), group="search", cite="Ai et al., CIKM 2019")
class QEM(ProductSearch):
    """s(q, i) = <phi(q), E[i]> + b_i with phi(q) = tanh(A mean(words of q) + a) (section 3.2 of the ZAM paper).

    Loss: noise contrast of the clicked item given phi(q), plus that of words of the item's text given E[i], weight 1.
    Deviations from the code by a co-author (kepingbi/ProdSearch, model QEM): the mean of a query is over its real words
    only; a step draws `text_words` words of its items, and of as many drawn ones, instead of one example per word of a
    review; frequent words are not sub-sampled; noise items are never ones that the user has a training event with.
    """

    Config = QEMConfig

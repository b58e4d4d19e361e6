"""Where the raw files of data sets are published; what `bench data fetch` knows."""

from dataclasses import dataclass

from bench.errors import UsageError, unknown


@dataclass(frozen=True)
class Remote:
    """One file: its name, and the addresses that have it, best first; none where the publication's metadata give it."""

    name: str
    urls: tuple[str, ...] = ()


@dataclass(frozen=True)
class Publication:
    """The files of a data set; `page` is where a person finds them, `metadata` a Zenodo record that states md5 sums."""

    page: str
    files: tuple[Remote, ...]
    metadata: str = ""


_ZENODO = "https://zenodo.org/records/8181109"
_ZENODO_API = "https://zenodo.org/api/records/8181109"
_AMAZON_PAGE = "https://jmcauley.ucsd.edu/data/amazon/"
# The mirror at Stanford first; its https has been seen to reset, so that plain http comes last.
_SNAP = "snap.stanford.edu/data/amazon/productGraph/categoryFiles"
_UCSD = "https://jmcauley.ucsd.edu/data/amazon"
_AMAZON = "amazon:"


def _amazon(category: str) -> Publication:
    """The 2014 release: 5-core reviews and metadata of a category."""
    names = ((f"reviews_{category}_5.json.gz", "categoryFilesSmall"), (f"meta_{category}.json.gz", "categoryFiles"))
    files = (
        Remote(name, (f"https://{_SNAP}/{name}", f"{_UCSD}/{folder}/{name}", f"http://{_SNAP}/{name}"))
        for name, folder in names
    )
    return Publication(_AMAZON_PAGE, tuple(files))


PUBLICATIONS = {
    "kuaisar": Publication(_ZENODO, (Remote("KuaiSAR_v2.zip"),), _ZENODO_API),
    "kuaisar-small": Publication(_ZENODO, (Remote("KuaiSAR.zip"),), _ZENODO_API),
    "amazon-kindle": _amazon("Kindle_Store"),
}


def publication(name: str) -> Publication:
    """Where the files of a data set come from.

    Raises:
        UsageError: none is known.
    """
    if name.startswith(_AMAZON) and len(name) > len(_AMAZON):
        category = name.removeprefix(_AMAZON)
        if not category.replace("_", "").isalnum():
            raise UsageError(
                f"{name}: the name of a category has letters, digits and _ only, for example amazon:Musical_Instruments"
            )
        return _amazon(category)
    if name not in PUBLICATIONS:
        raise unknown(
            "data set to fetch",
            name,
            [*PUBLICATIONS, f"{_AMAZON}<category>"],
            "(others are put into the data folder by hand)",
        )
    return PUBLICATIONS[name]

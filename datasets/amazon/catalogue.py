"""Side files that list a catalogue line by line, as published with PGPR (Xian et al., SIGIR 2019).

`product.txt`: asin a line. `category.txt` and `brand.txt`: a name a line. `category_p_c.txt` and `brand_p_b.txt`: for
the product of the same line the numbers (from 0) of its categories and its brand; a set, the order says nothing.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.datasets.amazon.files import find, read_lines, unique_ids
from bench.datasets.amazon.markup import clean
from bench.errors import RunError

NEEDED = ("product.txt", "category.txt", "category_p_c.txt")
BRANDS = ("brand.txt", "brand_p_b.txt")


@dataclass(frozen=True)
class Catalogue:
    """Category names of each product, from the one that most products have to the one that fewest have; its brand."""

    categories: dict[str, list[str]]
    brand: dict[str, str]


def catalogue_files(folder: Path) -> dict[str, Path]:
    """The files of a folder that `read_catalogue` reads; none at all where there is no product.txt.

    Raises:
        RunError: some of them are there and others are not.
    """
    paths = {name: path for name in NEEDED if (path := find(folder, name))}
    if not paths:
        return {}
    for name in NEEDED:
        if name not in paths:
            raise RunError(f"{folder} has {', '.join(paths)} but no {name}; put it there (or take the others away)")
    brands = {name: path for name in BRANDS if (path := find(folder, name))}
    return paths | (brands if len(brands) == len(BRANDS) else {})


def read_catalogue(files: dict[str, Path]) -> Catalogue:
    """Read the files of `catalogue_files`; nothing is known where they are not among `files`.

    Raises:
        RunError: the files do not fit each other; with file and line.
    """
    if "product.txt" not in files:
        return Catalogue({}, {})
    products = unique_ids(files["product.txt"], read_lines(files["product.txt"]))
    numbers, names = _relation(files, "category.txt", "category_p_c.txt", len(products))
    count = np.bincount([number for row in numbers for number in set(row)], minlength=len(names))
    # A path runs from general to special, and a general category has more products than a special one.
    rank = np.empty(len(names), dtype=np.int64)
    rank[np.lexsort((np.asarray(names, dtype=object), -count))] = np.arange(len(names))
    categories = {
        product: [names[number] for number in sorted(set(row), key=rank.__getitem__) if names[number]]
        for product, row in zip(products, numbers, strict=True)
    }
    brand: dict[str, str] = {}
    if "brand.txt" in files:
        numbers, names = _relation(files, "brand.txt", "brand_p_b.txt", len(products))
        brand = {
            product: names[row[0]] for product, row in zip(products, numbers, strict=True) if row and names[row[0]]
        }
    return Catalogue(categories, brand)


def _relation(
    files: dict[str, Path], names_file: str, rows_file: str, n_products: int
) -> tuple[list[list[int]], list[str]]:
    names = [clean(line) for line in read_lines(files[names_file])]
    path = files[rows_file]
    lines = read_lines(path)
    if len(lines) != n_products:
        raise RunError(
            f"{path} has {len(lines)} lines, {files['product.txt'].name} has {n_products}: "
            "line i must belong to product i"
        )
    rows = []
    for number, line in enumerate(lines, 1):
        entries = line.split()
        if not all(entry.isdecimal() and int(entry) < len(names) for entry in entries):
            raise RunError(
                f"{path}, line {number}: {line[:60]!r} is no list of line numbers of {names_file} "
                f"(0 to {len(names) - 1})"
            )
        rows.append([int(entry) for entry in entries])
    return rows, names

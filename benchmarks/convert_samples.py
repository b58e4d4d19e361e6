"""Published sample files as folders that `log:DIR` reads: the toy data of Qilin and the sample of JDsearch.

    python benchmarks/convert_samples.py qilin FOLDER_OF_THE_SAMPLE NEW_FOLDER
    python benchmarks/convert_samples.py jdsearch FOLDER_OF_THE_SAMPLE NEW_FOLDER

The folder may hold the files gzipped (`notes.csv.gz`) or not.
"""

import re
import sys
from pathlib import Path

import pandas as pd

COLUMNS = ["user", "item", "time", "task", "query", "session"]
# JDsearch publishes gaps in seconds, not times; any start will do.
JD_START_MS = 1_640_995_200_000


def find(folder: Path, name: str) -> Path:
    return next(path for path in (folder / name, folder / f"{name}.gz") if path.exists())


def qilin(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Clicked notes of search and recommendation results; search times are seconds, request times milliseconds."""
    events = []
    for task, results, stamp, unit in (
        ("search", "search_result_details_with_idx", "search_timestamp", 1000),
        ("rec", "rec_result_details_with_idx", "request_timestamp", 1),
    ):
        name = {"search": "search", "rec": "recommendation"}[task]
        for part in ("train", "test"):
            for row in pd.read_csv(find(folder, f"{name}_{part}.csv")).to_dict("records"):
                for shown in re.findall(r"\{[^{}]*\}", row[results]):  # reprs of dicts between blanks, with nan inside
                    fact = dict(re.findall(r"'(\w+)': ([\d.]+)", shown))
                    if float(fact["click"]) > 0:
                        moment = int(float(fact[stamp])) * unit
                        query, session = (row["query"], "search_idx") if task == "search" else ("", "request_idx")
                        events.append((row["user_idx"], fact["note_idx"], moment, task, query, row[session]))
    notes = pd.read_csv(find(folder, "notes.csv"), dtype=str, keep_default_na=False)
    items = pd.DataFrame(
        {
            "item": notes["note_idx"],
            "text": notes["note_title"] + " " + notes["note_content"],
            "categories": notes["taxonomy1_id"] + "|" + notes["taxonomy2_id"] + "|" + notes["taxonomy3_id"],
        }
    )
    return pd.DataFrame(events, columns=COLUMNS), items


def jdsearch(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Histories (without a query: rec) and the clicked candidates of the last query; terms are ids, joined by 0x18."""
    events = []
    for user, row in enumerate(
        pd.read_csv(find(folder, "user_behavior_data_sample.txt"), sep="\t", dtype=str).to_dict("records")
    ):
        times = (pd.Series(row["history_time_list"].split("_")).astype(int).cumsum() * 1000 + JD_START_MS).tolist()
        done = list(zip(row["history_wid_list"].split("_"), row["history_qry_list"].split("_"), times, strict=False))
        candidates = zip(row["candidate_wid_list"].split("_"), row["candidate_label_list"].split("_"), strict=True)
        done += [(item, row["query"], times[-1]) for item, label in candidates if float(label) > 0]
        for item, query, time in done:
            told = ("rec", "", "") if query == "-1" else ("search", query.replace("\x18", " "), time)
            events.append((user, item, time, *told))
    products = pd.read_csv(find(folder, "product_meta_data_sample.txt"), sep="\t", dtype=str, keep_default_na=False)
    items = pd.DataFrame(
        {
            "item": products["wid"],
            "text": products["name"].str.replace("\x18", " "),
            "categories": products[[f"cate_id_{level}" for level in range(1, 5)]].agg("|".join, axis=1),
            "feature:brand": products["brand_id"],
            "feature:shop": products["shop_id"],
        }
    )
    return pd.DataFrame(events, columns=COLUMNS), items


def main(sample: str, source: str, target: str) -> None:
    events, items = {"qilin": qilin, "jdsearch": jdsearch}[sample](Path(source))
    # Items that the sample mentions but does not describe: an id without text.
    unknown = pd.Index(events["item"].unique()).difference(items["item"])
    items = pd.concat([items, pd.DataFrame({"item": unknown})]).fillna("")
    Path(target).mkdir(parents=True, exist_ok=True)
    events.to_csv(Path(target) / "events.csv", index=False)
    items.to_csv(Path(target) / "items.csv", index=False)
    print(f"{len(events)} events, {len(items)} items ({len(unknown)} without a description) in {target}")


if __name__ == "__main__":
    main(*sys.argv[1:])

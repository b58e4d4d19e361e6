"""Small releases in the form of KuaiSAR, and changes to them."""

import csv
from pathlib import Path

import numpy as np

from bench.data.log import Log
from bench.datasets.simulated.source import Parameters

SIZE = Parameters(users=120, items=900, events=9_000, topics=6, intents=3)

FILES = ("rec_inter.csv", "src_inter.csv", "item_features.csv", "user_features.csv")
DAY = 86_400_000
BEIJING = 8 * 3_600_000


def records(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def numbers(text: str) -> tuple[str, ...]:
    return tuple(text.strip("[]").replace(",", " ").split())


def write(path: Path, header: str, rows: list[tuple]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header.split(","))
        writer.writerows(rows)


T0 = 1_684_737_000_000


def by_hand(folder: Path, search: list[tuple], rec: list[tuple]) -> None:
    """A release of one's own: rec rows (user, item, time, click), search rows without the readable time."""
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "rec_inter.csv", "user_id,item_id,timestamp,click", rec)
    write(
        folder / "src_inter.csv",
        "user_id,search_session_id,search_session_timestamp,search_source,keyword,item_id,click_cnt,item_type",
        search,
    )
    ids = sorted({row[1] for row in rec} | {row[5] for row in search})
    levels = ",".join(f"{level}_level_category_id,{level}_level_category_name_en" for level in ("first", "second"))
    write(
        folder / "item_features.csv",
        f"item_id,caption,author_id,{levels}",
        [(item, f"[{item}, 5]", 7, 0, "empty", 3, "Funny") for item in ids],
    )
    users = sorted({row[0] for row in rec} | {row[0] for row in search})
    write(
        folder / "user_features.csv",
        "user_id,search_active_level,rec_active_level,onehot_feat1,onehot_feat2",
        [(user, 1, 1, 1, 1) for user in users],
    )


def sessions_of(log: Log) -> list[tuple[int, str, list[int]]]:
    """(seconds after T0, query, original ids of the clicked items) of every search."""
    events = log.events
    found = []
    for act in np.unique(events.event_id[events.task == 1]):
        rows = np.flatnonzero(events.event_id == act)
        assert len(set(events.time[rows])) == 1 and len(set(events.query[rows])) == 1
        items = sorted(int(log.items.id[item]) for item in events.item[rows])
        found.append((int(events.time[rows[0]] - T0) // 1000, str(log.queries.text[events.query[rows[0]]]), items))
    return sorted(found)


def change(path: Path, line: int, column: str, value: str) -> None:
    """Replace a cell; `line` counts physical lines as an editor does, and no earlier record may hold a line break."""
    lines = path.read_bytes().split(b"\n")
    header = lines[0].decode().split(",")
    cells = next(csv.reader([lines[line - 1].decode()]))
    cells[header.index(column)] = value
    lines[line - 1] = ",".join(f'"{cell}"' for cell in cells).encode("utf-8", "surrogateescape")
    path.write_bytes(b"\n".join(lines))

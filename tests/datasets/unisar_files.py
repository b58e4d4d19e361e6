"""Small files in the form of UniSAR's release."""

import pickle
from pathlib import Path

import numpy as np
import pandas as pd

ITEMS = 160


def frame(columns: dict) -> pd.DataFrame:
    """As the release's: names of columns are Python strings."""
    return pd.DataFrame(columns).rename(columns=str).set_axis(pd.Index(list(columns), dtype=object), axis=1)


def write(folder: Path, name: str, content: object, protocol: int = 4) -> Path:
    path = folder / ("vocab" if "vocab" in name else "dataset") / f"{name}.pkl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol))
    return path


def write_release(
    folder: Path, seed: int = 0, n_users: int = 12, length: int = 8, days: bool = False, features: bool = True
) -> dict:
    """A release in the published form: every purchase is a click and a search of the same time; returns the vocabulary.

    Prefix lengths are recorded while both lists grow, clicks of a time before its searches, so that a search's prefix
    holds the click of the same purchase (the release's own leak); the last row of each task is test, the second last
    validation.
    """
    rng = np.random.default_rng(seed)
    unit = 86_400 if days else 1
    users, sessions = {}, [([0, 0, 0], [0])]
    rows: dict[str, list[list]] = {"rec": [], "src": []}
    for user in range(n_users):
        items = rng.permutation(ITEMS)[:length] + 1
        ts = np.sort(rng.integers(1_300_000_000 // unit, 1_300_000_000 // unit + 30, length)) * unit
        history = {"rec_his": [], "rec_his_ts": [], "src_session_his": [], "src_session_his_ts": []}
        of_user: dict[str, list[list]] = {"rec": [], "src": []}
        for stamp in np.unique(ts):
            for kind in ("rec", "src"):
                for item in items[ts == stamp]:
                    keyword = [int(item) % 7 + 1, int(item) % 5 + 20]
                    others = [int(i) for i in rng.permutation(ITEMS) + 1 if i not in items][:99]
                    lengths = [len(history["rec_his"]), len(history["src_session_his"])]
                    of_user[kind].append([user, int(item), others, *lengths, keyword, int(stamp)])
                    if kind == "rec":
                        history["rec_his"].append(int(item))
                    else:
                        history["src_session_his"].append(len(sessions))
                        sessions.append(([*keyword, 0], [int(item)]))
                    history["rec_his_ts" if kind == "rec" else "src_session_his_ts"].append(int(stamp))
        users[user] = history
        for kind, found in of_user.items():
            kept = [row for row in found if row[3] and row[4]]
            rows[kind] += [
                [*row, part] for row, part in zip(kept, ["train"] * (len(kept) - 2) + ["val", "test"], strict=True)
            ]
    names = ("user_id", "item_id", "neg_items", "rec_his", "src_session_his", "keyword", "ts")
    for kind, found in rows.items():
        for part in ("train", "val", "test"):
            chosen = [row for row in found if row[-1] == part]
            table = {name: [row[column] for row in chosen] for column, name in enumerate(names)}
            if part == "train":
                table["neg_items"] = [negatives[:4] for negatives in table["neg_items"]]
            if kind == "rec":
                del table["keyword"]
            write(folder, f"{kind}_{part}", frame(table))
    write(folder, "user_vocab", users)
    keyword, clicked = (np.asarray([entry[k] for entry in sessions]) for k in (0, 1))
    write(folder, "src_session_vocab_np", {"keyword": keyword, "pos_items": clicked})
    write(folder, "query_vocab", [[0], *sorted({tuple(entry[0]) for entry in sessions[1:]})])
    if features:
        ids = np.arange(ITEMS + 1)
        captions = np.where(ids[:, None] > 0, ids[:, None] % [7, 5] + [1, 20], 0)
        write(
            folder,
            "item_vocab_np",
            {"caption": captions, "first_level_category_id": ids % 4, "second_level_category_id": ids % 9},
        )
        write(
            folder,
            "user_vocab_np",
            {"onehot_feat1": np.arange(n_users) % 8, "rec_active_level": np.arange(n_users) % 4},
        )
    return {"users": users, "rows": rows, "sessions": sessions}

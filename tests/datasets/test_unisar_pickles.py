"""The pickles of UniSAR's release: read without running them, within limits of time and memory."""

import codecs
import copyreg
import io
import os
import pickle
import pickletools
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pandas.core.indexes.base import _new_Index
from pandas.core.internals import BlockManager

from bench.data import sources
from bench.datasets.unisar import pickle_reader, unpickle
from bench.datasets.unisar.pickle_reader import RefusedPickle
from bench.datasets.unisar.source import convert
from bench.errors import RunError

from .unisar_files import frame, write_release

OLD = Path(__file__).parent / "fixtures" / "rows-pandas-1.5.3"
WRITTEN = {
    "user_id": [0, 1, 1],
    "item_id": [3, 1, 2],
    "neg_items": [[1, 2, 4], [2, 3, 4], [1, 3, 4]],
    "rec_his": [2, 0, 1],
    "src_session_his": [1, 1, 0],
    "keyword": [[5, 6], [7, 8], [9]],
    "ts": [1, 2, 3],
}


def unpickled(content: bytes) -> Any:
    return pickle_reader.unpickle(io.BytesIO(content))


# Pickles that are programs. Each would leave a file or a process behind.
class Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def dotted(name: str) -> bytes:
    """Protocol 4 resolves dotted names: pandas' DataFrame leads to everything."""
    return b"\x80\x04\x8c\x11pandas.core.frame\x8c" + bytes([len(name)]) + name.encode() + b"\x93."


def plants(trace: Path) -> dict[str, bytes]:
    return {
        "system": pickle.dumps(Call(os.system, f"touch {trace}")),
        "open": pickle.dumps(Call(open, str(trace), "w")),
        "eval": pickle.dumps(Call(eval, f"open({str(trace)!r}, 'w')")),
        "import": pickle.dumps(Call(__import__, "antigravity")),
        "dotted": dotted("DataFrame.to_csv"),
        "read_pickle": pickle.dumps(Call(pd.read_pickle, str(trace))),
        "nested": pickle.dumps(frame({"user_id": [0], "neg_items": [Call(os.system, f"touch {trace}")]})),
        # BUILD with a slot state sets attributes; here on the class DataFrame, to a function that is not on the list.
        "setattr": b"\x80\x02cpandas.core.frame\nDataFrame\nN}\x8c\x0c__setstate__cos\nsystem\ns\x86b.",
        "codecs": pickle.dumps(Call(codecs.encode, "x", "zlib_codec")).replace(b"\x06codecs", b"\x07_codecs"),
    }


LENGTH = {4_000_000_000: (4_000_000_000).to_bytes(8, "little"), 2**62: (2**62).to_bytes(8, "little")}
DTYPE = b"cnumpy\ndtype\n\x8c\x02O8\x89\x88\x87R"
MERSENNE = 2**61 - 1


def call(module: str, name: str, arguments: bytes) -> bytes:
    """GLOBAL, arguments, REDUCE."""
    return f"c{module}\n{name}\n".encode() + arguments + b"R"


def doubled(opening: bytes, joining: bytes, times: int) -> bytes:
    """An object that holds the same object twice, and so on: 2 ** times of them in a few bytes."""
    return opening + b"".join(b"q\x01h\x01" + joining for _ in range(times))


def hostile() -> dict[str, tuple[str, bytes]]:
    """KIND and pickle that crash, stall or fill the process of a reader that runs what it reads."""
    state = b"(K\x01K\x01\x85" + DTYPE + b"\x89C\x08" + b"A" * 8 + b"t"
    array = call("numpy.core.multiarray", "_reconstruct", b"(cnumpy\nndarray\nK\x00\x85C\x01bt")
    nested = b"]" + doubled(b"K\x01\x85", b"\x86", 60)
    lists = doubled(b"]K\x01a", b"q\x02](h\x02h\x02e", 60)
    collide = b"".join(
        b"\x8a" + bytes([len(n)]) + n + b"K\x00"
        for n in ((k * MERSENNE + 1).to_bytes(11, "little") for k in range(1, 70_000))
    )
    table = pickle.dumps(frame(WRITTEN))
    addressed = b"(K\x01\x85" + DTYPE + b"C\x08" + b"A" * 8 + b"t"
    listed = b"(C\x08" + b"A" * 8 + DTYPE + b"K\x01\x85\x8c\x01Ct"
    tall = b"(K\x01\x8a\x06" + (2**40).to_bytes(6, "little") + b"K\x00\x86cnumpy\ndtype\n\x8c\x02i8\x85R\x89C\x00tb"
    cases = {
        # Memory read and written through an array over a buffer of addresses.
        "ndarray over a buffer": ("queries", call("numpy", "ndarray", addressed)),
        "ndarray of any size": ("queries", call("numpy", "ndarray", b"\x8a\x05" + (2**37).to_bytes(5, "little") + b"\x85")),
        "objects from a buffer": ("queries", call("numpy.core.numeric", "_frombuffer", listed)),
        "objects by BUILD": ("queries", array + state + b"b"),
        "an object scalar": ("queries", call("numpy.core.multiarray", "scalar", DTYPE + b"C\x08" + b"A" * 8 + b"\x86")),
        "a dtype with fields": ("queries", call("numpy", "dtype", b"\x8c\x03V16\x85")),
        "a dtype built twice": ("queries", DTYPE + b"(K\x03\x8c\x01|\x8c\x01aNNNNNtb"),
        "BUILD on a name": ("queries", b"cnumpy\nndarray\n}\x8c\x01xK\x01sb"),
        "BUILD on a class": ("rows", b"cpandas\nDataFrame\nN}\x8c\x05_dataK\x01s\x86b"),
        # Time.
        "nested hashes": ("queries", b"}" + nested[1:] + b"K\x01s"),
        "nested hashes in a set": ("queries", b"\x8f(" + nested[1:] + b"\x90"),
        "nested hashes in a frozenset": ("queries", b"(" + nested[1:] + b"\x91"),
        "a deep hash": ("queries", b"}K\x01" + b"\x85" * 3_000_000 + b"K\x01s"),
        "keys that collide": ("users", b"}(" + collide + b"u"),
        "a text that a pattern tries for ever": ("queries", b"](X" + (500_002).to_bytes(4, "little") + b"[" + b" " * 500_000 + b"xe"),
        "nested lists": ("queries", lists),
        "nested lists as a matrix": ("tables", b"}\x8c\x01a" + lists + b"s"),
        "nested lists as columns": ("sessions", b"}(\x8c\x07keyword" + lists + b"\x8c\x09pos_items" + lists + b"u"),
        "nested shapes": ("queries", array + state.replace(b"K\x01K\x01\x85", b"K\x01" + nested[1:]) + b"b"),
        # Memory.
        "text of many bytes": ("queries", b"cbuiltins\nstr\n" + call("builtins", "bytes", b"J\xff\xff\xff\x7f\x85") + b"\x85R"),
        "bytes of any size": ("queries", call("builtins", "bytearray", b"J\xff\xff\xff\x7f\x85")),
        "a length that is not there": ("queries", b"\x8e" + LENGTH[4_000_000_000]),
        "a text length that is not there": ("queries", b"\x8d" + LENGTH[2**62]),
        "a buffer length that is not there": ("queries", b"\x96" + LENGTH[4_000_000_000]),
        "a frame that is not there": ("users", b"\x95" + LENGTH[4_000_000_000] + b"]"),
        "a memo of any size": ("users", b"]r\xff\xff\xff\x7f"),
        "one list many times": ("queries", b"](" + b"K\x01" * 200_000 + b"eq\x010](" + b"h\x01" * 200_000 + b"e"),
        "one object many times": ("queries", b"cpandas\nIndex\nq\x010](" + b"h\x01" * 200_000 + b"e"),
        "no columns, many rows": ("tables", b"}\x8c\x01a" + array + tall + b"s"),
        # Depth.
        "deep lists": ("queries", b"]" * 2_000_000 + b"a" * 1_999_999),
        "deep tuples": ("queries", b")" + b"\x85" * 2_000_000),
        "deep parts": ("queries", b")" + b"cpandas\nDataFrame\n0" + b"".join([b"q\x01cpandas\nDataFrame\nh\x01\x85R"] * 100_000)),
        "a number of many digits": ("users", b"}\x8b" + (400_000).to_bytes(4, "little") + b"\x7f" * 400_000 + b"}s"),
        # Odd ends.
        "a persistent id": ("queries", b"Px\n"),
        "an extension": ("queries", b"\x82\x01"),
        "an opcode that there is not": ("queries", b"\xff"),
        "an empty stack": ("queries", b"0" * 5),
        "a column without its block": ("rows", table[2:-1].replace(b"neg_items", b"neg_itemz")),
    }  # fmt: skip
    return {name: (kind, b"\x80\x04" + body + b".") for name, (kind, body) in cases.items()}


# These run until their limit of processor time.
SLOW = ("keys that collide", "one list many times")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else []) for name in hostile()]
)
def test_a_hostile_pickle_is_one_line_and_no_crash(tmp_path, name):
    resource = pytest.importorskip("resource")
    kind, content = hostile()[name]
    file = {"queries": "query_vocab", "users": "user_vocab", "tables": "item_vocab_np", "rows": "rec_test",
            "sessions": "src_session_vocab_np"}[kind]  # fmt: skip
    path = tmp_path / f"{file}.pkl"
    path.write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with pytest.raises(RunError) as caught:
        convert({file: path}, tmp_path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    line = str(caught.value)
    # Refused by the reader itself: a signal or a traceback would be "failed in its process (exit ...)".
    assert line.startswith(f"{path}: ") and "\n" not in line and len(line) < 700 and "exit" not in line
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    # Kilobytes on Linux, bytes on macOS; the most of any child so far.
    assert seconds < 10 and after.ru_maxrss / (1 if sys.platform == "darwin" else 1024**-1) < 2e9


def test_a_reader_that_never_ends_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "subprocess.run",
        lambda command, timeout, **_: (_ for _ in ()).throw(subprocess.TimeoutExpired(command, timeout)),
    )
    path = tmp_path / "q.pkl"
    path.write_bytes(b"x" * 1000)
    with pytest.raises(RunError, match=r"took longer than \d+ s and was ended"):
        convert({"query_vocab": path}, tmp_path)


@pytest.mark.parametrize("plant", plants(Path()))
def test_pickles_that_would_run_code_are_refused_unrun(tmp_path, plant):
    trace = tmp_path / "trace"
    with pytest.raises(RefusedPickle, match=r"it asks for|it calls"):
        unpickled(plants(trace)[plant])
    assert not trace.exists()


def test_a_refused_file_is_named_and_nothing_is_written(tmp_path):
    folder, trace = tmp_path / "r", tmp_path / "trace"
    write_release(folder, n_users=2, length=5, features=False)
    path = folder / "dataset" / "src_val.pkl"
    path.write_bytes(plants(trace)["nested"])
    with pytest.raises(RunError) as caught:
        sources.load(f"unisar-release:{folder}", root=tmp_path / "root")
    assert str(path) in str(caught.value) and "system" in str(caught.value) and "not run" in str(caught.value)
    assert "\n" not in str(caught.value) and not trace.exists() and not (tmp_path / "root" / "prepared").exists()


@pytest.mark.parametrize("damage", ["truncated", "page", "empty"])
def test_damaged_pickles_are_one_sentence(damage):
    good = pickle.dumps(frame(WRITTEN))
    bad = {"truncated": good[: len(good) // 2], "page": b"<!DOCTYPE html><html>Too many requests</html>", "empty": b""}[
        damage
    ]
    with pytest.raises(RefusedPickle, match="damaged or no pickle"):
        unpickled(bad)


def test_the_audit_hook_stops_what_the_allow_list_would_let_through(tmp_path):
    """With a hole in the list the second fence holds: the hook runs in the child only, so a child is started."""
    trace = tmp_path / "trace"
    program = tmp_path / "x.pkl"
    program.write_bytes(pickle.dumps(Call(open, str(trace), "w")))
    code = (
        "import sys, io; from bench.datasets.unisar import pickle_reader, unpickle;"
        "pickle_reader.Reader.find_class = lambda self, module, name: io.open;"
        "pickle_reader.reconstruct = lambda function, arguments: function(*arguments);"
        "pickle_reader.Reader.load_reduce.__globals__.update(reconstruct=pickle_reader.reconstruct);"
        f"sys.exit(unpickle.main('queries', {str(program)!r}, {str(tmp_path / 'out')!r}))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True)
    assert done.returncode == unpickle.REFUSED and "tries to reach outside (open)" in done.stderr and not trace.exists()


def test_the_child_has_neither_environment_nor_the_callers_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "x")
    seen = {}
    monkeypatch.setattr(
        "subprocess.run",
        lambda command, **how: seen.update(how, command=command) or types.SimpleNamespace(returncode=0),
    )
    (tmp_path / "q.pkl").write_bytes(b"")
    convert({"query_vocab": tmp_path / "q.pkl"}, tmp_path)
    assert "SECRET" not in seen["env"] and "-I" in seen["command"] and seen["cwd"] == tmp_path


@pytest.mark.parametrize("path", sorted(OLD.glob("*.pkl")), ids=lambda path: path.stem)
def test_tables_written_by_pandas_1_5_and_numpy_1(path):
    """Written by pandas 1.5.3 with numpy 1.24.4; `keyword` is a list, its string form or a single number there."""
    assert unpickle.rows(unpickled(path.read_bytes())).to_pydict() == WRITTEN


def test_tables_in_the_form_of_pandas_1_0(monkeypatch):
    """Before pandas 1.3 a BlockManager was made empty and given its state; an index of integers had its own class."""
    table = frame({name: values for name, values in WRITTEN.items()})
    numeric = types.ModuleType("pandas.core.indexes.numeric")
    numeric.Int64Index = type("Int64Index", (), {"__module__": "pandas.core.indexes.numeric"})
    monkeypatch.setitem(sys.modules, "pandas.core.indexes.numeric", numeric)

    class Old(pickle._Pickler):
        def reducer_override(self, value):
            if isinstance(value, pd.RangeIndex):
                return _new_Index, (numeric.Int64Index, {"data": np.asarray(value), "name": None})
            if isinstance(value, BlockManager):
                blocks = [np.asarray(block.values) for block in value.blocks]
                places = [block.mgr_locs.as_array for block in value.blocks]
                axes = list(value.axes)
                named = [{"values": v, "mgr_locs": p} for v, p in zip(blocks, places, strict=True)]
                labels = [axes[0].take(place) for place in places]
                state = (axes, blocks, labels, {"0.14.1": {"axes": axes, "blocks": named}})
                return copyreg.__newobj__, (BlockManager,), state
            return NotImplemented

    stream = io.BytesIO()
    Old(stream, 2).dump(table)
    content = stream.getvalue().replace(b"cnumpy._core.", b"cnumpy.core.")
    names = {argument for code, argument, _ in pickletools.genops(content) if code.name == "GLOBAL"}
    assert "pandas.core.indexes.numeric Int64Index" in names and not any("_core" in name for name in names)
    assert unpickle.rows(unpickled(content)).to_pydict() == WRITTEN


@pytest.mark.parametrize(
    ("kind", "content", "what"),
    [
        ("rows", frame({"user_id": [0]}), "item_id is missing"),
        ("rows", frame({**WRITTEN, "item_id": [1.5, 2, 3]}), "item_id holds something that is no whole number"),
        ("rows", frame({**WRITTEN, "keyword": ["[1, 2]", "__import__('os')", 3]}), "keyword of row 1"),
        ("rows", frame({**WRITTEN, "neg_items": [[1], ["a"], [2]]}), "neg_items"),
        ("users", {0: {"rec_his": []}}, "user 0 has no rec_his_ts"),
        ("users", [1], "not a dict"),
        ("sessions", {"keyword": np.zeros((2, 3))}, "pos_items"),
        ("tables", {"a": np.zeros(2), "b": np.zeros(3)}, "differ in length"),
    ],
)
def test_what_is_wrong_is_said(kind, content, what):
    with pytest.raises(RefusedPickle, match=what):
        unpickle.KINDS[kind](unpickled(pickle.dumps(content)))

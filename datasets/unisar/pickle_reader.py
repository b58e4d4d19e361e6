"""Reads pickles of tables without running them.

A pickle is a program. Here no name in it resolves to a function or a class: a name on the list below becomes a record
of what it is given (`Part`), and every other name ends the reading, as does every opcode that tables do not need.
Arrays are rebuilt here from their bytes, and hold numbers of a fixed size only. Keys of dicts are numbers and strings
only: the hash of a tuple takes as long as everything that it leads to. Nothing here imports bench, pandas or what a
pickle names.
"""

import io
import math
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, ClassVar

import numpy as np

_NUMBER = re.compile(r"[<>=|]?([iuf][1248]|b1)")
# Small whole numbers as a pickle writes them one after the other: 1, 2 and 4 bytes.
_RUN = re.compile(rb"(?:K.|M..|J....)++", re.DOTALL)


class RefusedPickle(Exception):
    """The file is not what the release is documented to hold; the message says what is wrong."""


@dataclass(slots=True, eq=False)
class Name:
    """A name of the list, which stands for nothing but itself."""

    path: str
    kind: str


@dataclass(slots=True, eq=False)
class Part:
    """What a name was given: `value` is the array or dtype rebuilt from it, `state` what came afterwards."""

    kind: str
    arguments: tuple
    state: Any = None
    value: Any = None


# Every name that a pickle may ask for, as any numpy or pandas since 1.0 writes it, and the kind of thing it makes.
NAMES: dict[str, str] = {
    "numpy.ndarray": "array class",
    "numpy.dtype": "dtype",
    **{f"{core}.multiarray._reconstruct": "array" for core in ("numpy.core", "numpy._core")},
    **{f"{core}.multiarray.scalar": "scalar" for core in ("numpy.core", "numpy._core")},
    **{f"{core}.numeric._frombuffer": "buffer" for core in ("numpy.core", "numpy._core")},
    "_codecs.encode": "bytes of text",
    **{f"{module}.{name}": name for module in ("builtins", "__builtin__") for name in ("bytes", "bytearray", "slice")},
    "collections.OrderedDict": "dict",
    **{name: "frame" for name in ("pandas.DataFrame", "pandas.core.frame.DataFrame")},
    **{f"{module}.BlockManager": "blocks" for module in ("pandas.core.internals.managers", "pandas.core.internals")},
    "pandas._libs.internals._unpickle_block": "block",
    "pandas.core.internals.blocks.new_block": "block",
    "pandas.core.indexes.base._new_Index": "index",
    **{f"{module}.Index": "index class" for module in ("pandas", "pandas.core.indexes.base")},
    **{f"{module}.RangeIndex": "index class" for module in ("pandas", "pandas.core.indexes.range")},
    **{f"pandas.core.indexes.numeric.{kind}Index": "index class" for kind in ("Int64", "UInt64", "Float64")},
}  # fmt: skip


def _refuse_call(path: str) -> RefusedPickle:
    return RefusedPickle(f"it calls {path} with what no table holds; it was not run")


def reconstruct(name: Any, arguments: Any) -> Any:
    """What a call of a name stands for: a Part, or a value where all of it is known.

    Raises:
        RefusedPickle: the name makes nothing, or other arguments than pandas and numpy write.
    """
    if not isinstance(name, Name) or not isinstance(arguments, tuple):
        raise RefusedPickle("it calls something that is no name of a table's parts; it was not run")
    match name.kind, arguments:
        case "array", (Name(kind="array class"), (0,), _):
            return Part("array", ())
        case "dtype", (str() as text, *_) if _NUMBER.fullmatch(text):
            return Part("dtype", (), value=np.dtype(text))
        case "dtype", ("O" | "O8", *_):
            return Part("dtype", (), value=np.dtype(object))
        case "buffer", (bytes() | bytearray() as data, Part(kind="dtype", value=dtype), tuple() as shape, order):
            return Part("array", (), value=_numbers(data, dtype, shape, order == "F"))
        case "scalar", (Part(kind="dtype", value=dtype), bytes() as data):
            return _numbers(data, dtype, (1,), False).tolist()[0]
        case "bytes of text", (str() as text, "latin1" | "latin-1"):
            return text.encode("latin1")
        case "bytes" | "bytearray", ():
            return b""
        case "bytearray", (bytes() as data,):
            return data
        case "slice", (int() | None, int() | None, int() | None):
            return slice(*arguments)
        case "dict", ():
            return {}
        case "block", (_, _, *_):
            return Part("block", arguments)
        case "index", (Name(kind="index class"), dict()):
            return Part("index", arguments)
        case "frame" | "blocks", _:
            return Part(name.kind, arguments)
    raise _refuse_call(name.path)


def built(part: Any, state: Any) -> None:
    """Give a Part its state; once, and only in the forms that numpy and pandas write.

    Raises:
        RefusedPickle: anything else.
    """
    match part, state:
        case Part(kind="array", value=None), (1, tuple() as shape, Part(kind="dtype", value=dtype), fortran, data):
            read = _objects if dtype.hasobject else _numbers
            part.value = read(data, dtype, shape, bool(fortran))
        case Part(kind="dtype"), (int(), "<" | ">" | "|" | "=" as order, None, None, None, *_):
            part.value = part.value if order == "|" else part.value.newbyteorder(order)
        case Part(kind="frame" | "blocks", state=None), dict() | tuple():
            part.state = state
        case _:
            raise RefusedPickle("it sets the state of something that is no part of a table; it was not run")


def _numbers(data: Any, dtype: np.dtype, shape: tuple, fortran: bool) -> np.ndarray:
    """An array from its bytes, of numbers only: an object in a buffer would be an address."""
    if dtype.hasobject or not isinstance(data, bytes | bytearray):
        raise RefusedPickle("it makes an array of objects from bytes; it was not run")
    sizes = [size for size in shape if isinstance(size, int) and size >= 0]
    if len(sizes) != len(shape) or len(data) != math.prod(sizes) * dtype.itemsize:
        raise RefusedPickle(f"an array of {dtype} has {len(data):,} bytes, which is not what its shape needs")
    return np.frombuffer(bytes(data), dtype).reshape(sizes, order="F" if fortran else "C")


def _objects(data: Any, dtype: np.dtype, shape: tuple, fortran: bool) -> np.ndarray:
    """An array of the objects of a list."""
    sizes = [size for size in shape if isinstance(size, int) and size >= 0]
    if not isinstance(data, list) or len(sizes) != len(shape) or len(data) != math.prod(sizes):
        raise RefusedPickle("an array of objects has another number of them than its shape says")
    return np.fromiter(data, object, len(data)).reshape(sizes, order="F" if fortran else "C")


# Untyped: the stubs know the implementation in C only.
_Unpickler: Any = vars(pickle)["_Unpickler"]


class Reader(_Unpickler):
    """Python's unpickler without the opcodes that tables do not need, and with names, calls and keys held in.

    The implementation in C hashes and calls before anybody can look, so it reads runs of small numbers only.
    """

    def __init__(self, content: io.BytesIO):
        super().__init__(content)
        self._content = content

    dispatch: ClassVar[dict[int, Callable[..., None]]] = {
        code[0]: _Unpickler.dispatch[code[0]]
        for code in (
            *(pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.POP, pickle.POP_MARK, pickle.DUP),
            *(pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BININT, pickle.BININT1, pickle.BININT2),
            *(pickle.LONG1, pickle.LONG4, pickle.BINFLOAT),
            *(pickle.BINUNICODE, pickle.SHORT_BINUNICODE, pickle.BINUNICODE8),
            *(pickle.BINBYTES, pickle.SHORT_BINBYTES, pickle.BINBYTES8, pickle.BYTEARRAY8),
            *(pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS, pickle.EMPTY_DICT),
            *(pickle.EMPTY_TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3, pickle.TUPLE),
            *(pickle.BINGET, pickle.LONG_BINGET, pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE),
            *(pickle.GLOBAL, pickle.STACK_GLOBAL),
        )
    }

    def find_class(self, module: str, name: str) -> Name:
        """The name itself, where it stands on the list."""
        path = f"{module}.{name}"
        if path not in NAMES:
            raise RefusedPickle(f"it asks for {path}, which tables of numbers do not need; it was not run")
        return Name(path, NAMES[path])

    def load_mark(self) -> None:
        """MARK, and the run of small numbers after it in one step."""
        super().load_mark()
        stream = self._unframer.current_frame or self._content
        with stream.getbuffer() as content:
            run = _RUN.match(content, stream.tell())
            numbers, end = (bytes(run[0]), run.end()) if run else (b"", 0)
        if len(numbers) > 16:
            stream.seek(end)
            self.stack.extend(pickle.loads(b"\x80\x02(" + numbers + b"l."))

    def load_reduce(self) -> None:
        """REDUCE and NEWOBJ: a name and what it is given."""
        arguments = self.stack.pop()
        self.stack[-1] = reconstruct(self.stack[-1], arguments)

    def load_build(self) -> None:
        """BUILD."""
        state = self.stack.pop()
        built(self.stack[-1], state)

    def load_setitem(self) -> None:
        """SETITEM."""
        value, key = self.stack.pop(), self.stack.pop()
        self._fill([key, value])

    def load_setitems(self) -> None:
        """SETITEMS."""
        self._fill(self.pop_mark())

    def _fill(self, pairs: list[Any]) -> None:
        entries = self.stack[-1]
        if not isinstance(entries, dict) or len(pairs) % 2:
            raise RefusedPickle("it sets entries of something that is no dict")
        for key in pairs[::2]:
            # A tuple's hash takes as long as all that it leads to.
            if type(key) not in (int, str, float, bool):
                raise RefusedPickle(f"it has a {kind_of(key)} as the key of a dict, expected a number or a string")
        # One by one: keys can be chosen to collide, and a limit of time acts between two steps only.
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            entries[key] = value

    dispatch |= {
        pickle.MARK[0]: load_mark,
        pickle.REDUCE[0]: load_reduce,
        pickle.NEWOBJ[0]: load_reduce,
        pickle.BUILD[0]: load_build,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
    }


def unpickle(stream: BinaryIO) -> Any:
    """The content of a pickle: numbers, strings, lists, tuples, dicts and Parts.

    Raises:
        RefusedPickle: it asks for a name outside the list, does what no table needs, or is damaged.
    """
    # Read at once, so that a length that the file only claims allocates nothing.
    reader = Reader(io.BytesIO(stream.read()))
    try:
        return reader.load()
    except (RefusedPickle, MemoryError):
        raise
    except KeyError as error:
        raise RefusedPickle(f"it is damaged or no pickle of tables (opcode {error.args[0]!r})") from None
    except Exception as error:
        what = " ".join(str(error).split())[:200]
        raise RefusedPickle(f"it is damaged or no pickle of tables ({type(error).__name__}: {what})") from None


def kind_of(value: Any) -> str:
    """What a value is, for messages."""
    return value.kind if isinstance(value, Part | Name) else type(value).__name__


def plain(value: Any) -> Any:
    """An array's Part as the array, everything else as it is."""
    if not isinstance(value, Part | Name):
        return value
    if value.kind != "array" or value.value is None:  # type: ignore[union-attr]  # a Name is of another kind
        raise RefusedPickle(f"it holds a {value.kind} where numbers are expected")
    return value.value  # type: ignore[union-attr]  # as above


def frame_columns(content: Any) -> dict[Any, np.ndarray]:
    """The columns of a DataFrame by name, (n,) each.

    Raises:
        RefusedPickle: it is none, or its blocks and names do not fit together.
    """
    if not isinstance(content, Part) or content.kind != "frame":
        raise RefusedPickle(f"it holds a {kind_of(content)}, expected a pandas DataFrame")
    state = content.state if isinstance(content.state, dict) else {}
    match state.get("_mgr", state.get("_data")):
        case Part(kind="blocks", arguments=(tuple() as parts, [names, _])):
            blocks = [part.arguments[:2] for part in parts if isinstance(part, Part) and part.kind == "block"]
        case Part(kind="blocks", state=(_, _, _, {"0.14.1": {"axes": [names, _], "blocks": list() as parts}})):
            # pandas before 1.3.
            blocks = [(part.get("values"), part.get("mgr_locs")) for part in parts if isinstance(part, dict)]
        case _:
            raise RefusedPickle("it holds a DataFrame in a form that no pandas since 1.0 writes")
    labels = _labels(names)
    columns: dict[Any, np.ndarray] = {}
    for values, where in blocks:
        array, positions = plain(values), plain(where)
        if isinstance(positions, slice):
            positions = range(len(labels))[positions]
        if not isinstance(array, np.ndarray) or array.ndim != 2 or len(positions) != len(array):
            raise RefusedPickle("a block of its DataFrame is no table of numbers or objects")
        if any(not 0 <= column < len(labels) for column in positions):
            raise RefusedPickle("a block of its DataFrame stands outside of its columns")
        columns |= {labels[column]: row for column, row in zip(positions, array, strict=True)}
    return columns


def _labels(index: Any) -> list[Any]:
    """The names of columns."""
    match index:
        case Part(kind="index", arguments=(_, {"data": data})):
            labels = plain(data)
            if isinstance(labels, np.ndarray) and labels.ndim == 1:
                return [label if isinstance(label, str) else kind_of(label) for label in labels.tolist()]
    raise RefusedPickle("the columns of its DataFrame have no names")

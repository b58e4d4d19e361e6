"""Counter-based random numbers: a value depends on what it is for and whom it is for, never on the order of asking.

Every random decision about data hashes under a prefix of its own (`order:`, `task:`, `path:`, `candidates:`, ...). One
hash used for two purposes would make the two decisions dependent.
"""

import hashlib

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def key(prefix: str, *parts: object) -> np.uint64:
    """64-bit key of a purpose: the first 8 bytes of SHA-256 over `prefix:part:part...`."""
    text = ":".join([prefix, *(str(part) for part in parts)])
    return np.uint64(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little"))


def seed(prefix: str, *parts: object) -> int:
    """Seed for a library's generator (63 bits), derived by name like `key`."""
    return int(key(prefix, *parts) >> np.uint64(1))


def mix(values: np.ndarray) -> np.ndarray:
    """SplitMix64 finaliser (Steele, Lea, Flood 2014), element by element, on uint64 arrays."""
    with np.errstate(over="ignore"):
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def draw(purpose: np.uint64, *columns: np.ndarray) -> np.ndarray:
    """Uniform uint64 for each row of the columns (broadcast together), keyed by `purpose`."""
    state = np.asarray(purpose)
    with np.errstate(over="ignore"):
        for column in columns:
            state = mix(state + _GOLDEN) ^ mix(np.asarray(column).astype(np.uint64) + _GOLDEN)
        return mix(state + _GOLDEN)


def below(values: np.ndarray, bound: np.ndarray | int) -> np.ndarray:
    """Map uniform uint64 to integers in [0, bound) by the high 32 bits (bias below 2^-32 * bound)."""
    high = values >> np.uint64(32)
    return ((high * np.asarray(bound, dtype=np.uint64)) >> np.uint64(32)).astype(np.int64)

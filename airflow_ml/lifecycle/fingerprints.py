"""Fingerprints: the identity of a result is what it was made from, never a run id or the clock."""

import hashlib
import json
from typing import Any

FENCE_BITS = 60
"""A Delta app transaction holds a signed 64-bit version; 60 bits of the fingerprint fit with room for the sign."""


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str)


def fingerprint(*parts: Any) -> str:
    """SHA-256 of the parts' canonical JSON, as 64 hex digits."""
    return hashlib.sha256(canonical(parts).encode()).hexdigest()


def fence(print_: str) -> int:
    """The leading bits of a fingerprint as a Delta transaction version."""
    return int(print_[: FENCE_BITS // 4], 16)

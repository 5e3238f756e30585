"""Named numerics profiles. Everything that changes bits is part of a profile's fingerprint."""

from __future__ import annotations

import hashlib

from skipopu.numerics import align, fp32, tables

EXACT18 = "exact18"
PROFILES = (EXACT18,)


def fingerprint(profile: str) -> str:
    """16 hex digits over the widths and tables of ``profile``."""
    if profile not in PROFILES:
        raise KeyError(profile)
    digest = hashlib.sha256(profile.encode())
    digest.update(repr((align.ALIGNED_BITS, fp32.MANTISSA_BITS, tables.FRACTION_BITS, "kv fp16", "int4")).encode())
    for table in tables.TABLES:
        digest.update(table.coefficients.tobytes())
    return digest.hexdigest()[:16]

"""The pattern of an error: its sentence with `…` for numbers, ids and quoted texts, so that like errors are one."""

from __future__ import annotations

import re

LONGEST = 500
VARYING = re.compile(
    r"""
      (?<!\w)'(?:[^'\\]|\\.)*'(?!\w)                     # quoted; the one in "can't" quotes nothing
    | (?<!\w)"(?:[^"\\]|\\.)*"(?!\w)
    | `[^`]*`
    | \b[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\b
    | \b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?
    | \b0[xX][0-9A-Fa-f]+
    | (?<![\w.])[-+]?\d+(?:[.,:]\d+)*(?:[eE][-+]?\d+)?(?![0-9A-Za-z])    # a number, a time of day, an address
    | \b(?=[A-Fa-f]*[0-9])[0-9A-Fa-f]{7,}\b               # a hash; without a digit it may be a word
    | \b(?=(?:[A-Za-z]*[0-9]){3})[0-9A-Za-z]{16,}\b       # an id of letters and digits
    | (?:(?<![\w.])[-+])?\d+(?:[.,:]\d+)*
    """,
    re.VERBOSE,
)
# A list may be longer than the one before.
SEVERAL = re.compile(r"…(?:[,;]? ?…)+")


def pattern(error: str | None) -> str:
    """The first line of the error with one `…` for each part that varies, or for several in a row.

    Errors that differ in numbers, hexadecimal digits, ids or quoted texts alone have the same pattern.
    """
    lines = (error or "").strip().splitlines()
    return SEVERAL.sub("…", VARYING.sub("…", lines[0][:LONGEST])) if lines else ""

"""Errors that differ in numbers, ids and quoted texts alone are one; errors that say different things are not."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from batchq.core.pattern import pattern

SENTENCES = [
    ("ValueError: row 17 of 230 is empty", "ValueError: row … of … is empty"),
    ("KeyError: 'erp.invoices'", "KeyError: …"),
    ('KeyError: "it\'s gone"', "KeyError: …"),
    ("OSError: can't open 'a \\' b', it isn't there", "OSError: can't open …, it isn't there"),
    ("ConnectionError: 10.0.3.17:5432 refused", "ConnectionError: … refused"),
    ("no row 7f9c2ba4-e88f-427f-9b5a-1f2f6e4c1d22 left", "no row … left"),
    ("<Invoice object at 0x7f3a52bcdeb0>", "<Invoice object at …>"),
    ("commit 62c2963 and deadbeef", "commit … and deadbeef"),
    ("id 01ARZ3NDEKTSV4RRFFQ69G5FAV is taken", "id … is taken"),
    ("rows [1, 2, 3] and [4, 5]", "rows […] and […]"),
    ("from 2026-01-31T12:00:05.123Z on", "from … on"),
    ("lost: Batch12 fell silent for 30.5 s", "lost: Batch… fell silent for … s"),
    ("off by -5, then by 1.2e-05", "off by …, then by …"),
    ("ValueError: first\nsecond 5", "ValueError: first"),
    ("  \n", ""),
    (None, ""),
]


@pytest.mark.parametrize(("error", "like"), SENTENCES)
def test_a_pattern_says_what_like_errors_share(error, like):
    assert pattern(error) == like


WORDS = st.text("abcdefghijklmnopqrstuvwxyzåø", min_size=1, max_size=9)
# A small alphabet: that of all characters takes seconds to make.
QUOTED = st.text("abcæ 0:'\"\\`", min_size=1, max_size=12).map(lambda it: " ".join(it.split())).filter(bool)
VALUES = [
    st.integers(-(10**12), 10**12).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(str),
    st.integers(0, 2**64).map(hex),
    st.uuids().map(str),
    st.binary(min_size=4, max_size=32).map(bytes.hex).filter(lambda it: any(char.isdigit() for char in it)),
    st.datetimes().map(lambda it: it.isoformat()),
    st.ip_addresses(v=4).map(str),
    QUOTED.map(repr),
]
# Words of an error; None stands for a value.
SKELETON = st.lists(st.one_of(WORDS, st.sampled_from(range(len(VALUES)))), min_size=1, max_size=8)


def filled(skeleton, data) -> str:
    """The error with values of the kinds that its skeleton names."""
    return "ValueError: " + " ".join(part if isinstance(part, str) else data.draw(VALUES[part]) for part in skeleton)


@given(SKELETON, st.data())
def test_the_same_error_with_other_values_has_the_same_pattern(skeleton, data):
    assert pattern(filled(skeleton, data)) == pattern(filled(skeleton, data))


@given(SKELETON, st.data(), WORDS)
def test_an_error_with_another_word_has_another_pattern(skeleton, data, word):
    places = [at for at, part in enumerate(skeleton) if isinstance(part, str)]
    assume(places)
    at = data.draw(st.sampled_from(places))
    assume(skeleton[at] != word)
    other = [*skeleton[:at], word, *skeleton[at + 1 :]]
    assert pattern(filled(skeleton, data)) != pattern(filled(other, data))

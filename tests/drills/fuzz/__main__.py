"""Fuzz what reads job files, tickets and words: `python -m drills.fuzz --minutes 10` in the folder tests.

Guided by coverage where `atheris` is installed (`pip install atheris`), else by chance alone. What breaks the rule is
written to a file of its own, which `--again FILE` tries once more.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

MOST_BYTES = 8192
KEPT = Path(tempfile.gettempdir()) / "batchq-fuzz"


def main() -> int:
    """Returns 1 if an input was found that breaks the rule."""
    parser = argparse.ArgumentParser(prog="python -m drills.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="for how long (10)")
    parser.add_argument("--seed", type=int, default=1, help="where chance begins (1)")
    parser.add_argument("--again", type=Path, metavar="FILE", help="try this input alone")
    given = parser.parse_args()
    if given.again is not None:
        _try(given.again.read_bytes())
        return 0
    try:
        import atheris  # noqa: F401
    except ImportError:
        return _by_chance(given.minutes, given.seed)
    return _guided(given.minutes, given.seed)


def _try(data: bytes) -> None:
    """Judge an input: its first byte is its kind."""
    from drills.fuzz.judge import KINDS, judge

    if data:
        judge(list(KINDS)[data[0] % len(KINDS)], data[1:])


def _first() -> Iterator[bytes]:
    from drills.fuzz.judge import KINDS
    from drills.fuzz.mutate import seeds

    for kind, content in seeds():
        yield bytes([list(KINDS).index(kind)]) + content[:MOST_BYTES]


def _change(data: bytes, seed: int) -> bytes:
    from drills.fuzz.mutate import mutated

    random = Random(seed)
    kind = data[:1] if random.random() < 0.9 else bytes([random.randrange(5)])
    return (kind or b"\0") + mutated(data[1:], random)[: MOST_BYTES - 1]


def _by_chance(minutes: float, seed: int) -> int:
    random, pool = Random(seed), list(_first())
    deadline, number = time.monotonic() + minutes * 60, 0
    while time.monotonic() < deadline:
        data = _change(random.choice(pool), random.getrandbits(32))
        number += 1
        try:
            _try(data)
        except Exception as error:
            KEPT.mkdir(exist_ok=True)
            path = KEPT / hashlib.sha256(data).hexdigest()[:16]
            path.write_bytes(data)
            print(f"{path}: {type(error).__name__}: {error}")
            return 1
        if random.random() < 0.05:
            pool[random.randrange(len(pool))] = data
        if random.random() < 0.01:
            pool = list(_first())
    print(f"{number:,} inputs, none breaks the rule.")
    return 0


def _guided(minutes: float, seed: int) -> int:
    import atheris

    with atheris.instrument_imports(
        include=["batchq.spec", "batchq.core", "batchq.cli.fields", "batchq.server.tickets"]
    ):
        import batchq.cli.fields
        import batchq.server.tickets
        import batchq.spec  # noqa: F401
    KEPT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as corpus:
        for number, data in enumerate(_first()):
            (Path(corpus) / str(number)).write_bytes(data)
        argv = [sys.argv[0], f"-max_total_time={int(minutes * 60)}", f"-seed={seed}", f"-max_len={MOST_BYTES}"]
        argv += ["-timeout=20", "-rss_limit_mb=2048", f"-artifact_prefix={KEPT}/", "-print_final_stats=1", corpus]
        atheris.Setup(argv, _try, custom_mutator=lambda data, size, seed: _change(data, seed)[:size])
        atheris.Fuzz()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

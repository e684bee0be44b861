"""Hurt a whole installation of real processes, and let the checker judge what it did.

  python -m drills.chaos               the long form: 200 jobs of 50 tasks, a fault every 2 s for 10 min
  python -m drills.chaos --short       every kind of fault once, one by one, in 2 to 3 min
  python -m drills.chaos --recovery    every kind of fault again and again, one by one; how long each takes to get over
  python -m drills.chaos --soak        half the peak rate without faults; exit code 1 if memory, open files or keys grow

Run it in the folder tests. Every ticket is published one to three times, in another order. After the faults every
task must be terminal within 60 s; the exit code is 1 if that is not so, if an invariant was broken, or if a process
ended by itself. The same seed draws the same faults; when they meet the work is not the same.

A full disk needs the right to mount one, a network that is cut the right to make one; without them these faults are
left out, and that is said.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from drills.chaos.campaign import Campaign
from drills.chaos.disk import SmallDisk
from drills.chaos.faults import Surgeon
from drills.chaos.installation import Feeder, Installation
from drills.chaos.network import Network
from drills.chaos.postgres import Postgres
from drills.chaos.soak import soak
from drills.chaos.table import ALL, SHORT


def _given() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m drills.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    how = parser.add_mutually_exclusive_group()
    for name in ("short", "recovery", "soak"):
        how.add_argument(f"--{name}", dest="how", action="store_const", const=name)
    parser.set_defaults(how="long")
    parser.add_argument("--database", choices=["postgresql", "sqlite"], default="postgresql", help="(postgresql)")
    parser.add_argument("--broker", choices=["valkey", "rabbitmq"], default="valkey", help="(valkey)")
    parser.add_argument("--seed", type=int, default=None, help="(drawn, and printed)")
    parser.add_argument("--servers", type=int, default=None, help="2 to 4 (3; in the long form 4)")
    parser.add_argument("--threads", type=int, default=None, help="threads of each server (2; in the long form 4)")
    parser.add_argument("--minutes", type=float, default=None, help="of the long form (10), or of the soak (60)")
    parser.add_argument("--every", type=float, default=2.0, help="seconds between two faults of the long form (2)")
    parser.add_argument("--jobs", type=int, default=200, help="of the long form (200)")
    parser.add_argument("--tasks", type=int, default=50, help="of each of its jobs (50)")
    parser.add_argument("--rounds", type=int, default=12, help="how often --recovery plays each fault (12)")
    parser.add_argument("--only", metavar="NAME", action="append", help="of the faults, those whose names say so")
    parser.add_argument("--within", type=float, default=2.0, help="seconds for invariant 13 (2)")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="copy logs and ledger there when all is over")
    return parser.parse_args()


def main() -> int:
    """Returns the exit code."""
    given = _given()
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(10**6)
    rng = random.Random(seed)
    long = given.how == "long"
    print(f"python -m drills.chaos: {given.how} form, {given.database}, {given.broker}, --seed {seed}", flush=True)
    with _installation(given) as site:
        site.open()
        if given.how == "soak":
            return soak(site, given.minutes or 60, rng)
        minutes = given.minutes or 10
        feeder = Feeder(
            site,
            random.Random(rng.random()),
            tasks=given.tasks if long else 30,
            most=given.jobs if long else None,
            every=60 * minutes / given.jobs * 0.95 if long else 0.0,
            backlog=12 * given.tasks if long else 60,
            seconds=0.2 if long else 0.3,
        )
        surgeon = Surgeon(
            site,
            random.Random(rng.random()),
            longest_stop=90.0 if long else 5.0,
            longest_silence=5.0 if given.how == "short" else 60.0,
            alone=not long,
        )
        campaign = Campaign(site, surgeon, feeder)
        feeder.start()
        acts = [act for act in ALL if not given.only or any(word in act.__name__ for word in given.only)]
        short = [act for act in SHORT if not given.only or any(word in act.__name__ for word in given.only)]
        if long:
            campaign.storm(tuple(acts), seconds=60 * minutes, every=given.every)
        elif given.how == "short":
            campaign.one_by_one(short, rest=3.0)
        else:
            campaign.one_by_one(acts * given.rounds, rest=30.0)
        wrong = campaign.verdict(given.within)
        if not long:
            print(campaign.table())
        return wrong


@contextmanager
def _installation(given: argparse.Namespace) -> Iterator[Installation]:
    """The site of this run, in a folder that is gone afterwards."""
    long, short = given.how == "long", given.how == "short"
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    try:
        with ExitStack() as stack:
            # An hour's work is more than it holds.
            disk = stack.enter_context(SmallDisk(wanted=given.how != "soak"))
            broker_disk = stack.enter_context(SmallDisk(wanted=given.how != "soak" and given.broker == "rabbitmq"))
            network = stack.enter_context(Network(wanted=given.how != "soak"))
            room = disk.room_for("postgresql") if disk.mounted else None
            postgres = stack.enter_context(Postgres(room)) if given.database == "postgresql" else None
            site = Installation(
                folder,
                disk=disk,
                broker_disk=broker_disk,
                network=network,
                postgres=postgres,
                broker=given.broker,
                servers=given.servers or (4 if long else 3),
                threads=given.threads or (4 if long else 2),
                lost_seconds=12.0 if short else 30.0,
                windows=short or long,
                copies=given.how != "soak",
                behind_doors=given.how != "soak",
            )
            yield stack.enter_context(site)
    finally:
        if given.keep:
            shutil.copytree(folder, given.keep, dirs_exist_ok=True, ignore=shutil.ignore_patterns("gates"))
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    os.environ["TZ"] = "UTC"  # else setting the clock would set the zone too
    time.tzset()
    raise SystemExit(main())

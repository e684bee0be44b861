"""People who change their minds in the faulty time."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from batchq import actions, engine
from batchq.core.windows import Window, parse_time
from batchq.store.database import Database
from batchq.store.moves import Ticket
from drills.sim.books import driver
from drills.sim.jobs import GROUPS, LIMITS, varied_job
from drills.sim.processes import Action, Client
from drills.sim.setting import Setting
from support import rules

ZONES = ["UTC", "Europe/Oslo", "America/New_York", "Asia/Kathmandu"]


class People(Setting):
    """Operators and users, an event a method."""

    def _ask(self, what: str, subject: str | int, act: Callable[[Database], object]) -> None:
        """Let an operator do something, and note when it was acknowledged."""

        def acknowledged(database: Database) -> None:
            act(database)
            self.actions.append(Action(what, subject, self.mono, self.commits))
            if self.rng.random() < 0.5:
                client.forward()

        self.asked.append((what, subject))
        client = Client(self, f"{what} {subject}", acknowledged)

    def _submit(self) -> None:
        rng, name = self.rng, f"JOB {len(self.plans) + 1}"
        self.plans[name] = plan = rules.random_plan(
            rng.randint(1, 6), rng, most=3, levels=rng.choice([0, 0, 2]), gates=rng.choice([0, 0, 0.2])
        )
        if self.twins:
            _add_twins(plan, rng)
        self.jobs[name] = job = varied_job(name, plan, rng, limited=self.limited)

        def act(database: Database) -> None:
            engine.submit(database, job)
            client.forward()

        client = Client(self, f"submit {name}", act, insists=rng.random() < 0.5)

    def _window(self) -> Window:
        """A daily window that opens or closes about now, or is open, or is not."""
        rng, zone = self.rng, self.rng.choice(ZONES)
        first, last = sorted(rng.sample([-7200, -40, -5, 3, 10, 20, 35, 60, 9000], 2))
        if rng.random() < 0.15:
            first, last = last, first
        start, end = (_clock(self.wall() + timedelta(seconds=each), zone) for each in (first, last))
        return Window(parse_time(start), parse_time(end), rng.randint(0, 3), zone)

    def _on_cancel(self) -> None:
        self._on_run("cancel", actions.cancel_run)

    def _on_hold(self) -> None:
        """Mostly of a run whose tickets are out: these must come back."""
        query = "SELECT run_id FROM batchq_task WHERE status = 'queued' ORDER BY id"
        out = driver(self.shared).execute(query).fetchall()
        if out and self.rng.random() < 0.7:
            (run,) = self.rng.choice(out)
            self._ask("hold", run, lambda database: actions.hold_run(database, run))
        else:
            self._on_run("hold", actions.hold_run)

    def _on_hold_at_a_dispatch(self) -> None:
        self.at_a_dispatch.append(("hold", actions.hold_run))

    def _on_cancel_at_a_dispatch(self) -> None:
        self.at_a_dispatch.append(("cancel", actions.cancel_run))

    def handed_out(self, tickets: Sequence[Ticket]) -> None:
        """A commit has handed out these tickets: who waits for that acts on a run of them now, before they arrive."""
        if tickets and self.at_a_dispatch and not self.calm:
            what, act = self.at_a_dispatch.pop(0)
            run = self.rng.choice(tickets).task >> 20
            self._ask(what, run, lambda database: act(database, run))

    def _on_release(self) -> None:
        self._on_run("release", actions.release_run)

    def _on_run(self, what: str, act: Callable[[Database, int], object]) -> None:
        if (run := self._any_run()) is not None:
            self._ask(what, run, lambda database: act(database, run))

    def _any_run(self) -> int | None:
        runs = driver(self.shared).execute("SELECT id FROM batchq_run ORDER BY id").fetchall()
        return int(self.rng.choice(runs)[0]) if runs else None

    def _on_priority_of_run(self) -> None:
        priority = self.rng.choice(["low", "normal", "high", "critical"])
        self._on_run("priority of run", lambda database, run: actions.set_run_priority(database, run, priority))

    def _on_retry(self) -> None:
        """What failed, or some tasks, or all; and at times those too that may have done their work."""
        tasks, lost = self.rng.choice([0, 0, 1, 2]), self.rng.random() < 0.6
        whole = not tasks and self.rng.random() < 0.2
        if (run := self._any_run()) is not None:
            names = self._names_of(run)
            self._retry(run, self.rng.sample(names, min(len(names), tasks)), whole=whole, lost=lost)

    def _retry(self, run: int, tasks: list[str], *, whole: bool, lost: bool) -> None:
        self._ask("retry", run, lambda database: actions.retry_run(database, run, tasks, all_tasks=whole, lost=lost))

    def _on_accept(self) -> None:
        if (run := self._any_run()) is not None and (names := self._names_of(run)):
            task, lost = self.rng.choice(names), self.rng.random() < 0.6
            what = f"{run} / {task}"
            self._ask(
                "accept", what, lambda database: actions.accept_task(database, run, task, reason="by hand", lost=lost)
            )

    def _on_abort(self) -> None:
        query = "SELECT run_id, name FROM batchq_task WHERE status = 'executing' ORDER BY id"
        if executing := driver(self.shared).execute(query).fetchall():
            run, task = self.rng.choice(executing)
            self._ask("abort", f"{run} / {task}", lambda database: actions.abort_task(database, run, task))

    def _names_of(self, run: int) -> list[str]:
        """The tasks of a run that people can name."""
        query = "SELECT name FROM batchq_task WHERE run_id = ? AND NOT unnamed ORDER BY id"
        return [name for (name,) in driver(self.shared).execute(query, (run,))]

    def _on_limit(self) -> None:
        if self.limited:
            limit, units = self.rng.choice(LIMITS), self.rng.choice([0, 1, 1, 2])
            self._ask("limit", limit, lambda database: actions.set_limit(database, limit, units, ahead=self.ahead))

    def _on_per_run(self) -> None:
        if self.limited:
            group, most = self.rng.choice(GROUPS), self.rng.choice([1, 1, 2, "none"])
            self._ask(
                "per run", group, lambda database: actions.set_group(database, group, per_run=most, ahead=self.ahead)
            )

    def _on_pause(self) -> None:
        group = self.rng.choice(GROUPS)
        self._ask("pause", group, lambda database: actions.pause_group(database, group))

    def _on_resume(self) -> None:
        group = self.rng.choice(GROUPS)
        self._ask("resume", group, lambda database: actions.resume_group(database, group))

    def _set(self, what: str, **values: Any) -> None:
        name = self.rng.choice(self.names)
        self._ask(what, name, lambda database: actions.set_server(database, name, ahead=self.ahead, **values))

    def _on_threads(self) -> None:
        self._set("threads", threads=self.rng.randint(0, 3))

    def _on_windows(self) -> None:
        self._set("windows", windows=[self._window() for _ in range(self.rng.randint(0, 2))])

    def _on_override(self) -> None:
        name, threads = self.rng.choice(self.names), self.rng.randint(0, 3)
        until = self.wall() + timedelta(seconds=self.rng.choice([3, 10, 20, 60]))
        facts: dict[str, Any] = {"timezone": "UTC", "ahead": self.ahead}
        if self.rng.random() < 0.3:
            self._ask("override", name, lambda database: actions.end_override(database, name, **facts))
        else:  # refused where the clock jumped beyond its end meanwhile
            facts |= {"by": "sim"}
            self._ask(
                "override", name, lambda database: actions.override_server(database, name, threads, until, **facts)
            )

    def _on_bindings(self) -> None:
        self._set("bindings", groups=self.rng.sample(GROUPS, self.rng.randint(0, 2)))

    def _on_disable(self) -> None:
        self._set("disable", enabled=False)

    def _on_enable(self) -> None:
        self._set("enable", enabled=True)

    def _on_priority(self) -> None:
        group, priority = self.rng.choice(GROUPS), self.rng.choice(["low", "high", "critical"])
        self._ask("priority", group, lambda database: actions.set_group(database, group, priority=priority))

    def _on_delete(self) -> None:
        name = self.rng.choice(self.names)
        self._ask("delete", name, lambda database: actions.delete_server(database, name, ahead=self.ahead))

    def _on_submit(self) -> None:
        if len(self.plans) < 4:
            self._submit()


def _clock(instant: datetime, zone: str) -> str:
    return f"{instant.astimezone(ZoneInfo(zone)):%H:%M:%S}"


def _add_twins(plan: rules.Plan, rng: random.Random) -> None:
    """Give some tasks others with the same conditions, which they are stored with."""
    fit = [task for task in plan.after if plan.after[task] and not any(handles for *_, handles in plan.leaves(task))]
    for number, task in enumerate(rng.sample(sorted(fit), min(len(fit), 2))):
        twin = f"TWIN {number}"
        plan.after[twin], plan.joins[twin] = plan.after[task], plan.joins[task]
        if task in plan.gates:
            plan.gates.add(twin)

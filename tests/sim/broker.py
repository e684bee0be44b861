"""A broker that loses, doubles, delays and reorders tickets, gives them to whoever listens, and forgets everything."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchq.engine import Offer
from batchq.errors import BrokerUnreachable
from batchq.server.ledger import Arrival
from batchq.store.moves import Ticket

if TYPE_CHECKING:
    from sim.world import Actor, World

# A message nobody listens for is looked at again after so many seconds, and so often: by then it is stale for sure.
AGAIN, TRIES = 0.5, 40


@dataclass(eq=False, slots=True)
class Message:
    """One copy of a ticket on its way; `emptied` counts how often the broker had been emptied when it came in."""

    ticket: Ticket
    emptied: int
    tries: int = 0
    holder: Any = None
    acknowledged: bool = False

    def ack(self) -> None:
        self.acknowledged = True


class Broker:
    """All queues at once; what goes wrong in it is up to the world's chances."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._actor = world.outside("broker")
        self._held: list[Message] = []
        self.away = False
        self.emptied = 0
        self.sent: list[Ticket] = []

    def take(self, ticket: Ticket) -> None:
        """Take a ticket in; raises BrokerUnreachable while it is away."""
        if self.away:
            raise BrokerUnreachable(url="sim", reason="away")
        self.sent.append(ticket)
        copies = 1
        if self._world.happens("lose"):
            copies = 0
        elif self._world.happens("double"):
            copies = self._world.rng.randint(2, 3)
        for _ in range(copies):
            self._post(Message(ticket, self.emptied))

    def empty(self) -> None:
        """Forget every message."""
        self.emptied += 1

    def replay(self) -> None:
        """Send out a copy of any message that ever was."""
        if self.sent:
            self._post(Message(self._world.rng.choice(self.sent), self.emptied))

    def orphaned(self, process: Any) -> None:
        """Put back, or lose, what a process that died had not acknowledged."""
        for message in self._held:
            if message.holder is process and not message.acknowledged and self._world.rng.random() < 0.5:
                self._post(Message(message.ticket, self.emptied))
        self._held = [message for message in self._held if message.holder is not process]

    def _post(self, message: Message) -> None:
        rng, delay = self._world.rng, 0.005
        if self._world.happens("delay"):
            delay = rng.choice([0.3, 2.0, 8.0, 20.0]) * rng.random()
        self._world.after(self._actor, delay, lambda: self._deliver(message))

    def _deliver(self, message: Message) -> None:
        if message.emptied != self.emptied:
            return
        group, world = message.ticket.group, self._world
        listening = [server for server in world.servers() if server.listens(group)]
        if world.happens("misdeliver"):
            listening = world.servers()
        if not listening or self.away:
            message.tries += 1
            if message.tries < TRIES:
                world.after(self._actor, AGAIN, lambda: self._deliver(message))
            return
        message.holder = world.rng.choice(listening)
        self._held.append(message)
        world.after(message.holder.main, 0.005, lambda: self._arrive(message))

    def _arrive(self, message: Message) -> None:
        ticket = message.ticket
        offer = Offer(ticket.task, ticket.token, ticket.group)
        message.holder.ledger.offer(Arrival(offer, message, self._world.mono))


class Link:
    """One process's way to the broker: its publisher."""

    unsendable: frozenset[str] = frozenset()

    def __init__(self, world: World, actor: Actor) -> None:
        self._world = world
        self._actor = actor

    def publish(self, tickets: Iterable[Ticket]) -> list[Ticket]:
        """Send tickets; the process may die, or stand still, before each of them."""
        for ticket in tickets:
            self._world.boundary(self._actor)
            self._world.broker.take(ticket)
        return []

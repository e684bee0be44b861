"""A broker that loses, doubles, delays and reorders tickets, gives them to whoever listens, and forgets everything.

It hangs at times: then whoever sends waits in vain, nobody hears anything, and what is acknowledged comes again. And
it refuses the queues of some groups, while it takes all others.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchq.engine import Offer
from batchq.errors import BrokerUnreachable
from batchq.server.surroundings import Arrival
from batchq.server.tickets import Avoided
from batchq.store.moves import Ticket

if TYPE_CHECKING:
    from drills.sim.world import Actor, World

# A message nobody listens for is looked at again after so many seconds, and so often: by then it is stale for sure.
AGAIN, TRIES = 0.5, 40
# Who sends to a broker that hangs waits so long before it gives up: a server, and others.
SERVER_PATIENCE, PATIENCE = 0.4, 5.0
# Until a server whose broker hangs knows so, and sends nothing more.
NOTICED = 6.0


@dataclass(eq=False, slots=True)
class Message:
    """One copy of a ticket on its way; `emptied` counts how often the broker had been emptied when it came in."""

    ticket: Ticket
    emptied: int
    broker: Broker
    tries: int = 0
    holder: Any = None
    acknowledged: bool = False

    def ack(self) -> None:
        self.acknowledged = True
        self.broker.acknowledged(self)


class Broker:
    """All queues at once; what goes wrong in it is up to the world's chances."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._actor = world.outside("broker")
        self._held: list[Message] = []
        self.away = False
        self.emptied = 0
        self.sent: list[Ticket] = []
        # Since when and until when it hangs, and until when it refuses the queue of a group.
        self.hung_since = self.hung_until = 0.0
        self.refused_until: dict[str, float] = {}

    @property
    def hangs(self) -> bool:
        return self._world.mono < self.hung_until

    @property
    def is_missed(self) -> bool:
        """Whether a server has noticed that it is away, or hangs."""
        return self.away or (self.hangs and self._world.mono - self.hung_since > NOTICED)

    def hang(self, seconds: float) -> None:
        """Let nothing in or out for so long."""
        if not self.hangs:
            self.hung_since = self._world.mono
        self.hung_until = self._world.mono + seconds

    def refuses(self, group: str) -> bool:
        """Whether nothing can be sent to the group's queue now."""
        return self._world.mono < self.refused_until.get(group, 0.0)

    def take(self, ticket: Ticket) -> None:
        """Take a ticket in; raises BrokerUnreachable while it is away, or hangs: then it may have it all the same."""
        if self.away:
            raise BrokerUnreachable(url="sim", reason="away")
        if self.hangs:
            if self._world.rng.random() < 0.5:
                self._take(ticket)
            raise BrokerUnreachable(url="sim", reason="timed out")
        self._take(ticket)

    def _take(self, ticket: Ticket) -> None:
        self.sent.append(ticket)
        copies = 1
        if self._world.happens("lose"):
            copies = 0
        elif self._world.happens("double"):
            copies = self._world.rng.randint(2, 3)
        for _ in range(copies):
            self._post(Message(ticket, self.emptied, self))

    def acknowledged(self, message: Message) -> None:
        """Take note; one that hangs may never hear of it, and gives the message to somebody else later."""
        if self.hangs and self._world.rng.random() < 0.5:
            self._post(Message(message.ticket, self.emptied, self))

    def empty(self) -> None:
        """Forget every message."""
        self.emptied += 1

    def replay(self) -> None:
        """Send out a copy of any message that ever was."""
        if self.sent:
            self._post(Message(self._world.rng.choice(self.sent), self.emptied, self))

    def orphaned(self, process: Any) -> None:
        """Put back, or lose, what a process that died had not acknowledged."""
        for message in self._held:
            if message.holder is process and not message.acknowledged and self._world.rng.random() < 0.5:
                self._post(Message(message.ticket, self.emptied, self))
        self._held = [message for message in self._held if message.holder is not process]

    def _post(self, message: Message) -> None:
        rng, delay = self._world.rng, 0.005
        if self._world.happens("delay"):
            delay = rng.choice([0.3, 2.0, 8.0, 20.0]) * rng.random()
        self._world.after(self._actor, delay, lambda: self._deliver(message))

    def _deliver(self, message: Message) -> None:
        if message.emptied != self.emptied:
            return
        if self.hangs:
            self._world.after(self._actor, self.hung_until - self._world.mono + 0.01, lambda: self._deliver(message))
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

    def __init__(self, world: World, actor: Actor, patience: float = PATIENCE) -> None:
        self._world = world
        self._actor = actor
        self._patience = patience
        self._avoided = Avoided(world.monotonic)

    @property
    def unsendable(self) -> frozenset[str]:
        """The groups whose tickets this process cannot send for now."""
        return self._avoided.names

    def publish(self, tickets: Iterable[Ticket]) -> list[Ticket]:
        """Send tickets, and return those that the broker refuses; the process may die, or stand still, before each."""
        tickets = list(tickets)
        self._world.handed_out(tickets)
        return [ticket for ticket in tickets if not self._published(ticket)]

    def _published(self, ticket: Ticket) -> bool:
        self._world.boundary(self._actor)
        if ticket.group in self._avoided:
            return False
        if self._world.broker.hangs:
            self._world.wait(self._actor, self._patience)
        elif self._world.broker.refuses(ticket.group):
            self._avoided.put(ticket.group)
            return False
        self._world.broker.take(ticket)
        self._avoided.clear(ticket.group)
        return True

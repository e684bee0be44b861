"""The rows, by the name of the module that held them: `batchq.store.tables` does now."""

from batchq.store.tables import Attempt as Attempt
from batchq.store.tables import Dispatch as Dispatch
from batchq.store.tables import Group as Group
from batchq.store.tables import Job as Job
from batchq.store.tables import Liveness as Liveness
from batchq.store.tables import Row as Row
from batchq.store.tables import Run as Run
from batchq.store.tables import Server as Server
from batchq.store.tables import ServerGroup as ServerGroup
from batchq.store.tables import ServerWindow as ServerWindow
from batchq.store.tables import Task as Task
from batchq.store.tables import TaskCondition as TaskCondition
from batchq.store.tables import Trouble as Trouble

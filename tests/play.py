from batchq.store.database import Database
class Clocked(Database): pass

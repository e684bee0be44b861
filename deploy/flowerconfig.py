"""For plain `celery -A app flower --conf=flowerconfig.py`: what `batchq web` has without it.

Passwords stay out of here: FLOWER_BASIC_AUTH=name:password in the environment.
"""

# Open to this machine only; TLS and other machines are a reverse proxy's.
address = "127.0.0.1"
# A name says which task of which job it is; run and attempt stand in the arguments.
tasks_columns = "name,args,state,worker,received,started,runtime,uuid"
# In seconds. The name of every coordinator is new: those that are gone must not pile up.
purge_offline_workers = 24 * 3600

"""A whole installation in one thread and virtual time: the real engine, with everything around it made to fail.

`python -m drills.sim 100000` in the folder tests is the long run; with `--seed N` it plays one world again.
"""

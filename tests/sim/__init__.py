"""A whole installation in one thread and virtual time: the real engine, with everything around it made to fail.

`python -m sim 100000` in the folder tests is the long run, `python -m sim --seed N` plays one world again.
"""

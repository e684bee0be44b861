"""Chaos: a whole installation of real processes, everything of it hurt in every way, and then judged by the checker.

`python -m drills.chaos --help` in the folder tests says how it is played.
"""

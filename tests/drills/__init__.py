"""The drills: what is played for minutes or hours: a simulation, chaos on real processes, and fuzzing of the input."""

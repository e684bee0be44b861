"""The parts of a plan: a guess at durations, the scene it plays on, and the report on the simulation."""

"""What a plan is made of: a guess at durations, the scene it plays on, and the report on the simulation."""

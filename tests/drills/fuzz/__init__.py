"""Fuzzing: whatever bytes come in, a value goes on that means the same when written down, or a sentence comes out."""

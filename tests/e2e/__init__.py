"""Whole installations: real broker, database, coordinator and servers, each a process of its own."""

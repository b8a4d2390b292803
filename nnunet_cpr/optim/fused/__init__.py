"""Constraint and update in one pass over memory, where a backend can do that."""

"""Objectives: pure functions from a batch to per-token weights; one objective a file."""

"""Procedurally generated, verifiable tasks: one task a file, found by listing this package."""

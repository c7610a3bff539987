"""Diagnostics: one pure function of a weight update, one file each."""

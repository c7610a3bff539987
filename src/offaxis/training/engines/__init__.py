"""Inference servers over HTTP: one client, and one file for each server's requests and answers."""

"""Data that is not of our making: files of the user, and generators of others, as records."""

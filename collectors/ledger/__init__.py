"""The exact record of what was used, kept for good in one SQLite file."""

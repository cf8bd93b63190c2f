"""Backups: policy, pg_dump, files."""

"""Tenants in shared tables: what the manifest declares, what the database has, and the way from one to the other."""

"""smeta: declarative PostgreSQL migrations."""

__version__ = "0.1.0"

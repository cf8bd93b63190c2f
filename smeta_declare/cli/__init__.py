"""The command line: options, views, entry point."""

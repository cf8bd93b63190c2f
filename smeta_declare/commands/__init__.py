"""One small module per command, loaded when it is called."""

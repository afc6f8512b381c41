"""The command line: arguments, commands (values), views (the only writers)."""

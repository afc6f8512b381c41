"""What each verb does: arguments in, a value out. Nothing here writes to a terminal."""

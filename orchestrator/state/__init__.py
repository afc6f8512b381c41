"""History and wishes on disk (SQLite) and the per-stack lock. Never asked what is running."""

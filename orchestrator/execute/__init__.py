"""Plan + drivers -> results. Never edits a plan, never looks at a manifest."""

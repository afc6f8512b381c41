"""Where manifests come from while nobody types `apply`: watched files, read again whenever they change."""

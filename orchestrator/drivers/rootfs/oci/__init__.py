"""OCI images: names, registries, layouts, archives, and their layers as contents of the store."""

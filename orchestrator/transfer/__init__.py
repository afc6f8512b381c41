"""Files in and out of running containers: entries flow from a source (a tree, a tar stream) into a sink (the same)."""

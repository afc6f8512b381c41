"""Volumes: folders that outlive containers and stacks."""

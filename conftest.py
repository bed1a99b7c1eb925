"""Registers the grader's pytest plugin, nothing else."""

pytest_plugins = ["graders.plugin"]

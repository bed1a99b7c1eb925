"""Registers the grader as a pytest plugin."""

pytest_plugins = ["graders.plugin"]

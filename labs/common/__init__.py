"""The course library: units, hardware and model tables, tiny models.

Grading always uses the instructor's copy.
"""

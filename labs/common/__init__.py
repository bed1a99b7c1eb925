"""The course library: units, hardware and model tables, tiny models. Always the instructor's copy when grading."""

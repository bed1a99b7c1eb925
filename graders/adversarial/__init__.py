"""Submissions that attack the grader, and the judge of what they reached.

``attack`` says what an attack is, ``families/`` holds them by the number of their family, ``kit``
is what they share inside the submission, ``course`` is the small lab they are handed in for,
``canaries`` are what is planted for them to reach, ``judge`` grades them and tells what they
reached, and ``run`` is the command. content/threat_model.md says what is promised.
"""

"""Grading a class: find submissions, grade each once in a sandbox, sign, sum up.

    discover ──► run ──► store (results by content, journal, lock)
                  │
                  └────► pool ──pipe──► slot (an oracle process, warm) ──► workers (sandbox)

The parent reads submissions and holds the signing key; it runs no line of a submission and imports
no torch. A slot is an oracle that grades one submission after the other; it never sees the key or a
student's name.
"""

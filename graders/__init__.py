"""The grader: an oracle that holds tests and answers, and a worker that holds the submission."""

"""The lab's pictures, drawn from the numbers that your functions return.

Each function takes the lab's package (`import labs.lab02_capacity as student`) and returns a
matplotlib figure. The grader draws the same ones into the HTML report.
"""

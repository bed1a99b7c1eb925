"""The course in nbgrader, and a class's results in the formats of other platforms.

    course     writes an nbgrader course: configuration, and one assignment a lab
    notebook   the assignment's notebook, and a student's notebook made safe
    autograde  nbgrader's autograde without running a notebook: grades the package, injects scores
    exchange   collect without following links, zip_collect without unpacking
    scores     from a signed record to the points of a gradebook; refuses what is no score
    exports    Canvas, Gradescope, JUnit; plugins: Canvas from the gradebook
    gradescope an autograder zip for Gradescope

Only ``autograde``, ``exchange`` and ``plugins`` import nbgrader.
"""

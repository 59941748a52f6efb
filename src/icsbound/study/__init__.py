"""Simulations and small trainings that put the claims of the theory to the test, and record what is measured.

Each study is a function of a seed that yields points, most of them beside what the theory predicts there. `registry`
lists them, `run` runs them; what they say is judged on their page, from the records alone.
"""

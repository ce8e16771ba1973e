"""The estimator laboratory: at one fixed policy, how wrong and how noisy each estimator is.

methods      every estimator, as options of the learner
measure      estimates of each from the same batches, and what is saved of them
statistics   bias, variance, direction, and their standard errors
sources      what a task must offer; a sampled truth
text         a task whose completions are all known, and a trained run
control      a Gymnasium environment
laboratory   all of it together
table        what the terminal shows
"""

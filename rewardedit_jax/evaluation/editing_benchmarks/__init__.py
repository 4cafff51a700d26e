"""Benchmarks of editors: requests are edited, a judge answers questions about each edit, and the answers are counted.

Every request has an answer, or a failure with a reason (`outcomes`), and both are counted. The published scripts leave
out what failed, or guess it: docs/editing_benchmarks.md says how each number differs from theirs.

  real_edit        80 photographs, seven edits each: yes or no and a score for following, preserving and quality
  gedit_bench      606 images, requests in English and Chinese: VIEScore's two scores each for two measures
  imgedit_bench    nine types of edits: three scores in one answer
  magicbrush       sessions of one to three turns, single and multi turn: Real-Edit's questions, and pairs for metrics
  aurora_edits     AURORA's test set, in the same way
  i2ebench         stored yes/no verdicts of I2EBench's judge

`benchmark` says what a benchmark consists of, and `evaluate` runs it: `edit_folder` makes and keeps the edits of a
system, `outcomes` and `counts` turn answers into numbers. `comparison` compares two systems on the same items.
"""

"""Benchmarks of editors: how well a judge finds that edits follow their instructions.

Every figure has one fixed denominator, the items of the benchmark: an edit that is missing and a judgement that failed
count against the editor, and the report says how many there are. `published` repeats the benchmark's own script, so
that figures compare with printed ones. Two editors are compared on the same items, with 95 % bootstrap intervals.

  i2ebench   stored yes/no verdicts of I2EBench's judge
"""

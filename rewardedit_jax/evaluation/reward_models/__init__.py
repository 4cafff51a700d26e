"""Benchmarks of reward models: items in their public layout, human judgements, and how well a judge agrees with them.

Each is told under two protocols. `published` counts as the published code does, its accidents included (thresholds
tuned on the test data, order-dependent ties, the hyperbolic tangent of a mean correlation), so that numbers can be set
beside those of papers. `sound` is what to believe: thresholds cross-validated, Fisher's transform, every item in the
denominator, 95 % bootstrap intervals with their seed. Facts: section 7 of the EditReward fact sheet.

  genai_bench       four-way votes on two edits, stored answers of a judge
  imagenhub         ratings of three raters, stored answers of a judge (VIEScore) or any scorer
  pairs             GenAI-Bench (from the hub, or as listed by EditReward) and AURORA pairs, any scorer
  points            AURORA and ImagenHub points, any scorer
  editreward_bench  rankings of two, three or four edits, any scorer, or stored answers of a judge

A scorer is a `Scorer` or a plain callable: see `edits.ScoreEdits`. Wherever one goes, scores from a file go too:
`stored_scores`.
"""

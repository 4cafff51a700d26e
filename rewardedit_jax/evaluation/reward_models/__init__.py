"""Benchmarks of reward models: human judgements of edits, and how well scores or a judge's answers agree with them.

Every figure follows one of two protocols. `published` repeats the published evaluation code with its accidents (tie
thresholds tuned on the test data, ties that depend on the order of items, tanh of a mean correlation), so that it
compares with printed figures: EditReward (arXiv:2509.26346), section 4.2, table 2. `sound` is the figure to trust:
cross-validated thresholds, Fisher's transform, a judge's lost answers in the denominator, and 95 % bootstrap intervals.

  genai_bench        votes on two edits: a judge's stored answers, and the hub's pairs for any scorer
  aurora             pairs (AURORA, GenAI-Bench) and points (AURORA, ImagenHub) in EditReward's lists, for any scorer
  imagenhub          ratings of three raters: a judge's stored answers (`viescore`), or any scorer
  editreward_bench   rankings of two, three or four edits, for any scorer
  editreward_pairs   the same from the hub's parquet files, and a judge's stored answers

Scores come from a `Scorer`, from a callable, or from a file: see `edits.ScoreSource`. Readers of files raise
`FileNotFoundError`, or a `ValueError` that names the file and the items. Two kinds of faults are listed in the report
instead: lost answers of a judge (`answers`), and an allowed number of edits without a score (`edits.Unscored`).
"""

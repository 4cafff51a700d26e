"""Old names of `records`, until their callers import the new ones; then this file goes."""

from rewardedit_jax.data.records import BadRecords, count_noun, list_lines

counted, indented = count_noun, list_lines

__all__ = ["BadRecords", "counted", "indented"]

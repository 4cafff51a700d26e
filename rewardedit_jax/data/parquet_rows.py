"""Old name of `parquet`, until its callers import the new one; then this file goes."""

from rewardedit_jax.data.parquet import ParquetRows, embedded_image

__all__ = ["ParquetRows", "embedded_image"]

"""Quick starts of commands: compiled programs on disk, and less garbage collection while JAX traces programs."""

import gc
import os
import warnings
from functools import cache
from pathlib import Path

import jax
from absl import logging

_CACHE = "JAX_COMPILATION_CACHE_DIR"  # read by JAX itself
_CACHE_BYTES = 4 * 2**30  # programs used least recently are removed beyond this size
_GC_THRESHOLDS = (50_000, 10, 10)  # with 200_000, memory grows by gigabytes
_LONG_COMPILATION = 1.0  # seconds; JAX caches programs that take longer


def start_quickly() -> None:
    """Set up this process for a command: call it before the first program is traced.

    Compiled programs are kept on disk: the next process that needs one reads it instead of compiling it again.

    The directory is rewardedit_jax/xla in $XDG_CACHE_HOME, or in ~/.cache. $JAX_COMPILATION_CACHE_DIR is another
    directory instead; set to an empty text, it turns the cache off. Without a writable directory there is no cache.
    """
    _log_compilations()
    # Tracing creates many small objects that live on. To look through them at Python's own thresholds takes a tenth of
    # the time until the first training step.
    gc.set_threshold(*_GC_THRESHOLDS)
    # JAX warns of each program that it cannot read or write. It is then compiled, as without a cache.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    if _CACHE in os.environ:
        # JAX takes an empty name for the current directory.
        jax.config.update("jax_enable_compilation_cache", bool(os.environ[_CACHE]))
    elif directory := _cache_directory():
        jax.config.update("jax_compilation_cache_dir", str(directory))
        # With a limit JAX locks the directory, so that several processes can use it at the same time.
        jax.config.update("jax_compilation_cache_max_size", _CACHE_BYTES)


def _cache_directory() -> Path | None:
    """The directory of compiled programs, created if it is missing; None if it cannot be written."""
    try:
        parent = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        directory = parent / "rewardedit_jax" / "xla"
        directory.mkdir(parents=True, exist_ok=True)
        # JAX writes a program, then its time of access. A process that was killed between leaves the program alone,
        # perhaps in part, and JAX would fail at each later write.
        for program in directory.glob("*-cache"):
            if not program.with_name(program.name.removesuffix("cache") + "atime").exists():
                program.unlink(missing_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: there is no home directory
        return None
    return directory if os.access(directory, os.W_OK) else None


@cache  # once per process, however often a command is called
def _log_compilations() -> None:
    def log(event: str, seconds: float, **about: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration" and seconds >= _LONG_COMPILATION:
            logging.info("compiled %s in %.0f s", about.get("fun_name", "a program"), seconds)

    jax.monitoring.register_event_duration_secs_listener(log)

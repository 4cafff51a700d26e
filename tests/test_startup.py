"""How commands start: where they keep compiled programs."""

import os
from pathlib import Path

import jax
import pytest

from rewardedit_jax.startup import start_quickly


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """Settings of JAX's cache that a test may change, and a home directory without a cache."""
    settings = ("jax_compilation_cache_dir", "jax_compilation_cache_max_size", "jax_enable_compilation_cache")
    before = {name: getattr(jax.config, name) for name in settings}
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    jax.config.update("jax_compilation_cache_dir", None)
    yield tmp_path / ".cache" / "rewardedit_jax" / "xla"
    for name, value in before.items():
        jax.config.update(name, value)


def test_commands_keep_compiled_programs(cache, monkeypatch, tmp_path):
    start_quickly()
    assert jax.config.jax_compilation_cache_dir == str(cache)
    assert jax.config.jax_compilation_cache_max_size > 0  # a limit makes JAX lock the directory
    assert cache.is_dir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    start_quickly()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "xdg" / "rewardedit_jax" / "xla")


def test_jaxs_variable_wins_and_turns_the_cache_off(cache, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    start_quickly()
    assert not cache.exists()
    assert jax.config.jax_enable_compilation_cache
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
    start_quickly()
    assert not jax.config.jax_enable_compilation_cache
    assert not cache.exists()


def test_without_a_writable_home_there_is_no_cache(cache, monkeypatch, tmp_path):
    (tmp_path / ".cache").write_text("a file in place of the folder")
    start_quickly()
    assert jax.config.jax_compilation_cache_dir is None
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home directory")))
    start_quickly()
    assert jax.config.jax_compilation_cache_dir is None


def test_a_read_only_cache_is_not_used(cache, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    start_quickly()
    assert jax.config.jax_compilation_cache_dir is None


def test_a_program_that_was_written_in_part_is_removed(cache):
    cache.mkdir(parents=True)
    for name in ("jit_a-1-cache", "jit_a-1-atime", "jit_b-2-cache"):
        (cache / name).touch()
    start_quickly()
    assert sorted(file.name for file in cache.iterdir()) == ["jit_a-1-atime", "jit_a-1-cache"]

"""What all tests share: compiled programs, the reference editor, third-party data, and calls from outside."""

import gc
import json
import os
import runpy
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest
from paths import REFERENCES, ROOT, SHARED_DATA

# Compiling takes most of the time of the tests, and many of them run the same programs. Set before JAX is imported;
# worker processes and commands inherit it. The size makes JAX lock the folder: without a limit, two processes may read
# a program that a third one is still writing.
os.environ |= {
    "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".pytest_cache" / "compiled"),
    "JAX_COMPILATION_CACHE_MAX_SIZE": str(4 << 30),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # programs here run for milliseconds and compile for seconds
    # Half of the time in which a command starts, Python would compile the sources of what it imports.
    "PYTHONPYCACHEPREFIX": str(ROOT / ".pytest_cache" / "bytecode"),
    "PYTHONDONTWRITEBYTECODE": "",
}
gc.set_threshold(50_000, 10, 10)  # as `start_quickly`


@pytest.fixture(scope="session", autouse=True)
def commands_read_programs_quickly() -> None:
    """Turns off fusions with which a program takes twice as long to read from the cache, in commands only."""
    import jax

    jax.devices()  # this process reads its flags here
    os.environ["XLA_FLAGS"] = "--xla_cpu_experimental_ynn_fusion_type="


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of third-party data beside the checkout; tests that read it are skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"third-party data is absent: no folder {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session")
def editor_a_fixture() -> Path:
    """The folder with the inputs and expected values of the reference editor."""
    return REFERENCES / "editor_a"


@pytest.fixture(scope="session")
def editor_a_dir(editor_a_fixture, tmp_path_factory) -> Path:
    """The reference editor as a pipeline directory (188 MiB, a tiny reward-conditioned editor of 32 px)."""
    out = tmp_path_factory.mktemp("editor_a")
    write = runpy.run_path(str(editor_a_fixture / "make_editor_dir.py"))["write_editor_dir"]
    write(json.loads((editor_a_fixture / "editor_a.json").read_text("utf-8")), str(out))
    return out


@pytest.fixture
def unchecked_annotations() -> Iterator[None]:
    """Annotations are not checked, as in a user's program: a value of a wrong type reaches the code."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)

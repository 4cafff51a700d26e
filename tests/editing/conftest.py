import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def compile_quickly():
    """What these tests run takes milliseconds and compiles for seconds: three times as fast without optimisations."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)

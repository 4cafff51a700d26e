import pytest
from ml_collections import ConfigDict

from rewardedit_jax.data.records import open_named
from rewardedit_jax.editing.task import SOURCES
from rewardedit_jax.scoring.task import PREFERENCES


@pytest.mark.parametrize(("layouts", "known"), [(SOURCES, "triplets"), (PREFERENCES, "preference_file")])
def test_an_unknown_name_of_data_is_refused_with_those_there_are(layouts, known):
    with pytest.raises(ValueError, match=rf"data\.name='shape'.*{known}"):
        open_named(layouts, ConfigDict({"name": "shape", "root": "."}))

import pytest
from ml_collections import ConfigDict

from rewardedit_jax.data.sources import open_preferences, open_source


@pytest.mark.parametrize("opened", [open_source, open_preferences])
def test_an_unknown_name_of_data_is_refused_with_those_there_are(opened):
    with pytest.raises(ValueError, match=r"data\.name='shape'.*(triplets|preference_file)"):
        opened(ConfigDict({"name": "shape", "root": "."}))

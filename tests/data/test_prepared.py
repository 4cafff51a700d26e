"""Readers of prepared data sets: folders of other programs, unfinished ones, copies of records."""

import json
import pickle

import numpy as np
import pytest
import tensorflow_datasets as tfds
from made_sets import make, picture
from tensorflow_datasets.proto import tf_example_pb2

from rewardedit_jax.data.array_records import ArrayRecords
from rewardedit_jax.data.encoded import EncodedEdit, StoredEdits, digest
from rewardedit_jax.data.open_edits import open_edits
from rewardedit_jax.data.prepared import PreparedEdits, edit_row
from rewardedit_jax.data.prepared_pairs import PreparedPairs
from rewardedit_jax.data.preparing import prepare_edits
from rewardedit_jax.data.records import BadRecords, InstructionSource
from rewardedit_jax.data.triplets import TripletFile


class Edits(StoredEdits):
    """Edits in memory."""

    def __init__(self, *edits):
        self.edits = edits

    def __len__(self):
        return len(self.edits)

    def encoded(self, index):
        return self.edits[index]

    def keys(self):
        return [edit.key for edit in self.edits]


def prepared(folder, source, per_shard=2):
    preparation = prepare_edits(source, folder, "mine", "a description", per_shard)
    preparation.run()
    preparation.finish()
    return PreparedEdits(folder)


REWARD = ((4.0, 3.5, 0.0), ("no snow", "None", "日本語"))
JUDGED = EncodedEdit("k0", "make it snow", picture(1), picture(2, "jpeg"), *REWARD, {"session": "7", "turn": 2})
PLAIN = EncodedEdit("k1", "ändere es\n«so»", picture(3, "webp"), picture(3, "webp"))


def test_every_field_comes_back(tmp_path):
    edits = prepared(tmp_path, Edits(JUDGED, PLAIN))
    assert isinstance(edits, InstructionSource)
    for number, edit in enumerate((JUDGED, PLAIN)):
        stored = edits.encoded(number)
        for name in ("key", "instruction", "source", "edited", "scores", "feedback", "extra"):
            assert getattr(stored, name) == getattr(edit, name)
        assert edits.digests(number) == (digest(edit.source), digest(edit.edited))
    assert edits.instructions() == [JUDGED.instruction, PLAIN.instruction]
    copy = pickle.loads(pickle.dumps(edits))
    assert copy.encoded(1).source == PLAIN.source


def test_the_order_of_the_fields_is_fixed():
    """Not so by default: it depends on a seed that protobuf draws for each process."""
    data = edit_row(JUDGED).data
    message = tf_example_pb2.Example.FromString(data)
    assert len(message.features.feature) == 7
    assert message.SerializeToString(deterministic=True) == data


def test_tfds_reads_the_same(tmp_path):
    prepared(tmp_path, Edits(JUDGED, PLAIN))
    builder = tfds.builder_from_directory(str(tmp_path))
    assert builder.info.description == "a description"
    decoders = dict.fromkeys(("source", "edited"), tfds.decode.SkipDecoding())
    records = builder.as_data_source("train", decoders=decoders)
    first = records[0]
    assert first["instruction"] == b"make it snow"
    assert first["source"] == JUDGED.source
    assert json.loads(first["extra"]) == JUDGED.extra
    assert np.isnan(records[1]["scores"]).all()


def test_a_stored_record_can_be_copied(tmp_path):
    edits = prepared(tmp_path, Edits(JUDGED, PLAIN), per_shard=1)
    copy = edits.stored(1)
    assert copy.data == ArrayRecords([tmp_path / "mine-train.array_record-00001-of-00002"])[0]
    assert copy.index["key"] == "k1"
    assert json.loads(copy.index["extra"]) == {}


def write_foreign(folder, fields, examples):
    """A data set that another program wrote with TFDS."""

    class Foreign(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("2.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict(fields)
            return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(), "test": self._generate_examples()}

        def _generate_examples(self):
            yield from enumerate(examples)

    builder = Foreign(data_dir=str(folder), file_format="array_record")
    builder.download_and_prepare()
    return builder.data_dir


FIELDS = {
    "key": tfds.features.Text(),
    "instruction": tfds.features.Text(),
    "source": tfds.features.Image(),
    "edited": tfds.features.Image(),
    "kind": tfds.features.ClassLabel(names=["add", "remove"]),
    "strength": tfds.features.Scalar(np.float32),
}


def test_a_folder_of_another_program_is_read(tmp_path):
    further = {"kind": "remove", "strength": 0.5}
    examples = [
        {"key": f"k{i}", "instruction": f"edit {i}", "source": picture(i), "edited": picture(i + 1), **further}
        for i in range(3)
    ]
    edits = open_edits(write_foreign(tmp_path, FIELDS, examples))
    assert edits.keys() == ["k0", "k1", "k2"]
    edit = edits.encoded(2)
    assert (edit.instruction, edit.scores, edit.feedback) == ("edit 2", None, None)
    assert edit.extra == {"kind": "remove", "strength": 0.5}
    assert edits[2].edited[0, 0, 0] == 3
    assert edits.digests(2) == (digest(edit.source), digest(edit.edited))


def test_other_kinds_and_splits_are_refused(tmp_path):
    fields = {name: FIELDS[name] for name in ("key", "source")}
    folder = write_foreign(tmp_path, fields, [{"key": "a", "source": picture(1)}])
    with pytest.raises(BadRecords, match="records have key, source, but lack instruction, edited"):
        PreparedEdits(folder)
    prepared(tmp_path / "mine", Edits(JUDGED))
    with pytest.raises(BadRecords, match="lack edited_a, edited_b"):
        PreparedPairs(tmp_path / "mine")
    with pytest.raises(BadRecords, match="no split 'test': expected one of train"):
        PreparedEdits(tmp_path / "mine", "test")


def test_unfinished_folders_and_lost_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no dataset_info\.json \(it is not prepared\).*prepare_data\.py"):
        PreparedEdits(tmp_path / "nowhere")
    prepare_edits(Edits(JUDGED), tmp_path, "mine", "x").run()
    with pytest.raises(FileNotFoundError, match="has not finished: run the same command again"):
        PreparedEdits(tmp_path)
    prepared(tmp_path, Edits(JUDGED), per_shard=1000)
    (tmp_path / "mine-train.array_record-00000-of-00001").unlink()
    with pytest.raises(BadRecords, match=r"lacks mine-train\.array_record-00000-of-00001 \(1 of 1 files\)"):
        PreparedEdits(tmp_path)


def test_a_lost_index_is_made_from_the_records(tmp_path):
    edits = prepared(tmp_path, Edits(JUDGED, PLAIN))
    expected = edits.index.to_pylist()
    (tmp_path / "mine-train.index-00000-of-00001.parquet").unlink()
    assert PreparedEdits(tmp_path).index.select(edits.columns).to_pylist() == expected


def test_a_prepared_data_set_can_be_prepared_again(tmp_path):
    """As `StoredEdits` of any other layout."""
    source, _ = make("triplets", tmp_path / "source")
    first = prepared(tmp_path / "first", TripletFile(source))
    second = prepared(tmp_path / "second", first)
    assert [second.stored(i).data for i in range(2)] == [first.stored(i).data for i in range(2)]


def test_an_unreadable_record_names_key_and_folder(tmp_path):
    edits = prepared(tmp_path, Edits(JUDGED))
    assert edits.encoded(0).names == (f"source of k0 ({tmp_path})", f"edited of k0 ({tmp_path})")

import io
import json
import logging
import pickle

import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from rewardedit_jax.data.images import ImageError
from rewardedit_jax.data.preferences import PreferenceFile, PreferenceParquet, missing_images, read_labels
from rewardedit_jax.data.records import BadRecords, PreferenceSource, contradictions
from rewardedit_jax.scoring.pairs import TIES


def _png(value):
    out = io.BytesIO()
    Image.new("RGB", (4, 4), (value, value, value)).save(out, "PNG")
    return out.getvalue()


def _values(preference):
    return [int(image[0, 0, 0]) for image in (preference.source, preference.edited_a, preference.edited_b)]


class TestPreferenceFile:
    @pytest.fixture
    def folder(self, tmp_path):
        (tmp_path / "images").mkdir()
        for value in (10, 20, 30, 40):
            (tmp_path / "images" / f"{value}.png").write_bytes(_png(value))
        return tmp_path

    @staticmethod
    def _pair(source=10, a=20, b=30, scores=(4, 3, 2, 3), **more):
        names = ("model1_dim1_score", "model1_dim2_score", "model2_dim1_score", "model2_dim2_score")
        paths = {key: f"images/{v}.png" for key, v in zip(("path_src", "path1", "path2"), (source, a, b), strict=True)}
        rated = {name: score for name, score in zip(names, scores, strict=True) if score is not None}
        return {"prompt": "brighter", "confidence": None, **paths, **rated, **more}

    def _write(self, folder, entries):
        (folder / "pairs.json").write_text(json.dumps(entries), "utf-8")
        return folder / "pairs.json"

    def test_a_pair_with_its_images(self, folder):
        placeholder = (4, None, 2, None)  # of the published validation list
        unrated = self._pair(10, 40, 20, placeholder, model1_dim2_score=None)
        source = PreferenceFile(self._write(folder, [self._pair(), unrated]))
        assert isinstance(source, PreferenceSource)
        first, second = source[0], pickle.loads(pickle.dumps(source))[-1]
        assert (first.key, first.instruction, first.preferred) == ("0:images/20.png", "brighter", "a")
        assert (first.ratings_a, first.ratings_b) == ((4.0, 3.0), (2.0, 3.0))
        assert (_values(first), _values(second)) == ([10, 20, 30], [10, 40, 20])
        assert (second.ratings_a, second.ratings_b) == (None, None)
        assert [j.key for j in source.labels] == [first.key, second.key]
        with pytest.raises(IndexError):
            source[2]

    def test_images_may_lie_under_a_root(self, folder, tmp_path_factory):
        path = self._write(tmp_path_factory.mktemp("lists"), [self._pair()])
        assert _values(PreferenceFile(path, folder)[0]) == [10, 20, 30]

    def test_images_lie_below_the_root_unless_allowed(self, folder):
        path = self._write(folder, [self._pair(path_src=str(folder / "images" / "10.png"))])
        assert _values(PreferenceFile(path)[0]) == [10, 20, 30]
        (folder / "lists").mkdir()
        path = self._write(folder / "lists", [self._pair(path_src="../images/10.png"), self._pair(path2="x" * 300)])
        with pytest.raises(BadRecords, match=r"(?s)2 bad records.*0:.*'\.\./images/10\.png' .*data\.allow_outside"):
            PreferenceFile(path)
        path = self._write(
            folder / "lists",
            [
                {
                    **self._pair(),
                    "path_src": "../images/10.png",
                    "path1": "../images/20.png",
                    "path2": str(folder / "images" / "30.png"),
                }
            ],
        )
        assert _values(PreferenceFile(path, allow_outside=True)[0]) == [10, 20, 30]

    def test_all_missing_images_are_listed_by_key(self, folder, caplog):
        path = self._write(folder, [self._pair(11), self._pair(), self._pair(10, 21, 31)])
        expected = (
            r"(?s)2 bad records.*0:images/20\.png: no image images/11\.png.*2:images/21\.png: .*21\.png, .*31\.png"
        )
        with pytest.raises(BadRecords, match=expected):
            PreferenceFile(path)
        assert missing_images(read_labels(path), folder) == {
            "0:images/20.png": ["images/11.png"],
            "2:images/21.png": ["images/21.png", "images/31.png"],
        }
        with caplog.at_level(logging.WARNING):
            source = PreferenceFile(path, skip_bad=True)
        assert [j.key for j in source.labels] == ["1:images/20.png"]
        assert _values(source[0]) == [10, 20, 30]
        assert "2 bad records" in caplog.text

    def test_a_broken_image_is_named(self, folder):
        source = PreferenceFile(self._write(folder, [self._pair()]))
        (folder / "images" / "30.png").write_bytes(b"cut")
        with pytest.raises(ImageError, match=r"images/30\.png"):
            source[0]

    def test_contradictory_pairs_are_logged_and_kept(self, folder, caplog):
        path = self._write(folder, [self._pair(), self._pair(10, 40, 20), self._pair(10, 30, 20)])
        with caplog.at_level(logging.WARNING):
            source = PreferenceFile(path)
        assert len(source) == 3
        message = "1 pair with contradictory labels, all kept:\n  0:images/20.png, 2:images/30.png"
        assert message in caplog.text

    def test_equal_sums_and_tie_cases_are_ties(self, folder):
        entries = [
            self._pair(scores=(4, 2, 2, 4)),  # crossing
            self._pair(scores=(4, 2, 4, 2)),  # full
            {**self._pair(scores=(4, 2, 2, 2)), "tie_case": True},
            {**self._pair(scores=(4, 2, 2, 2)), "tie_case": False},
            self._pair(scores=[None] * 4, tie_case=True),
            self._pair(scores=[None] * 4, tie_case=None),
        ]
        labels = PreferenceFile(self._write(folder, entries)).labels
        assert [j.preferred for j in labels] == ["tie", "tie", "tie", "a", "tie", "a"]
        rows = {name: len(treat(labels)) for name, treat in TIES.items()}
        assert rows == {"disentangle": 4, "both orders": 10, "strict only": 2, "marked": 6}

    def test_a_tie_in_both_orders_is_one_pair(self, folder):
        """Only in opposite orders: what is listed twice was asked twice. Strict pairs are not touched."""
        tie, turned = self._pair(scores=(4, 2, 2, 4)), self._pair(10, 30, 20, scores=(2, 4, 4, 2))
        strict, opposite = self._pair(scores=(4, 4, 1, 1)), self._pair(10, 30, 20, scores=(4, 4, 1, 1))
        labels = read_labels(self._write(folder, [tie, strict, tie, turned, opposite, turned, turned]))
        assert [j.key.split(":")[0] for j in labels] == ["0", "1", "2", "4", "6"]

    @pytest.mark.parametrize(
        ("bad", "fault"),
        [
            ([1], r"object.*\[1\]"),
            ({"path_src": "a", "path1": "b", "path2": "c"}, "`prompt`"),
            ({"prompt": "a", "path_src": None, "path1": "b"}, "path_src=None: .*str"),
            ({"prompt": " \n", "path_src": "a", "path1": "b", "path2": "c"}, "blank instruction"),
            ("0, 1, 1, 1", r"model1_dim1_score=0: .*1\.0"),
            ("1, 1, 5, 1", r"model2_dim1_score=5: .*4\.0"),
            ("1, true, 1, 1", "model1_dim2_score=True: .*bool"),
            ("1, 1, 1, NaN", "model2_dim2_score=nan"),
            ('1, 1, "4", 1', "model2_dim1_score='4': .*str"),
            ("4, 3, null, null", "rated in part, without model2_dim1_score, model2_dim2_score"),
            ("4, null, 3, null", "rated in part, without model1_dim2_score, model2_dim2_score"),
            ("null, 4, null, 2", "rated in part, without model1_dim1_score, model2_dim1_score"),
            ({"prompt": "a", "path_src": "a", "path1": "b", "path2": "c", "tie_case": "false"}, "tie_case='false'"),
        ],
    )
    def test_a_malformed_pair_is_named_or_left_out(self, folder, bad, fault):
        entry = self._pair(scores=json.loads(f"[{bad}]")) if isinstance(bad, str) else bad
        path = self._write(folder, [self._pair(), entry])
        with pytest.raises(BadRecords, match=rf"(?s)1 bad record\n.*entry 1: .*{fault}"):
            PreferenceFile(path)
        assert len(PreferenceFile(path, skip_bad=True)) == 1

    def test_all_malformed_pairs_come_in_one_error(self, folder):
        entries = [self._pair(prompt=""), self._pair(), [1], self._pair(a=40, prompt=None)]
        expected = r"3 bad records\n  entry 0: blank.*\n  entry 2: .*\[1\]\n  entry 3: prompt=None"
        with pytest.raises(BadRecords, match=expected):
            PreferenceFile(self._write(folder, entries))

    def test_a_file_that_is_no_list_is_an_error(self, folder):
        for content, fault in [("{", "not JSON"), ("{}", "list.*dict")]:
            (folder / "pairs.json").write_text(content)
            with pytest.raises(BadRecords, match=fault):
                PreferenceFile(folder / "pairs.json", skip_bad=True)

    def test_the_error_of_a_missing_file_shows_the_layout(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r'(?s)nowhere\.json.*"path_src": "1\.png".*model2_dim2_score'):
            PreferenceFile(tmp_path / "nowhere.json")

    def test_reads_the_shipped_validation_pairs(self, shared_data):
        path = shared_data / "editreward" / "valid_dataset_1.json"
        if not path.is_file():
            pytest.skip(f"there is no {path}")
        labels = read_labels(path)
        assert len(labels) == len({j.key for j in labels}) == 503
        assert {(j.preferred, j.ratings_a, j.ratings_b) for j in labels} == {("a", None, None)}
        assert labels[1].instruction == "Put popcorn in the plate."
        assert contradictions(labels) == []
        assert len(missing_images(labels, path.parent)) == 503  # the file comes without its images
        with pytest.raises(BadRecords, match="503 bad records"):
            PreferenceFile(path)


class TestPreferenceParquet:
    @staticmethod
    def _row(number=0, vote="leftvote", scores=(4.0, 2.5, 3.0, 1.0), **more):
        sides = (
            f"{side}_{name}_score"
            for side in ("left", "right")
            for name in ("instruction_following", "quality_aesthetic")
        )
        cells = {
            "key": f"scene{number}",
            "unique_key": f"scene{number}_pair",
            "pair_index": 0,
            "instruction": f"edit {number}",
            "left_img_rel": f"l{number}.png",
            "right_img_rel": f"r{number}.png",
            "vote_type": vote,
            "source_img": {"bytes": _png(10 * number), "path": None},
            "left_output_image": {"bytes": _png(10 * number + 1), "path": None},
            "right_output_image": {"bytes": _png(10 * number + 2), "path": None},
        }
        return {**cells, **dict(zip(sides, scores, strict=True)), **more}

    @staticmethod
    def _write(path, rows):
        path.parent.mkdir(exist_ok=True)
        parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=2)

    @pytest.fixture
    def root(self, tmp_path):
        votes = ["leftvote", "rightvote", "tie"]
        self._write(tmp_path / "data" / "train-0.parquet", [self._row(i, vote) for i, vote in enumerate(votes)])
        self._write(tmp_path / "data" / "train-1.parquet", [self._row(3, scores=[None] * 4), self._row(4)])
        return tmp_path

    def test_rows_in_any_order(self, root):
        source = pickle.loads(pickle.dumps(PreferenceParquet(root)))
        assert isinstance(source, PreferenceSource)
        assert len(source) == 5
        for i in (4, 0, 2, 1, 3, 3, -1):
            number = i % 5
            assert _values(source[i]) == [10 * number, 10 * number + 1, 10 * number + 2]
            assert source[i].key == source.labels[i].key == f"{number}:scene{number}_pair"
            assert source[i].instruction == f"edit {number}"
        assert [j.preferred for j in source.labels] == ["a", "b", "tie", "a", "a"]
        assert (source[0].ratings_a, source[0].ratings_b) == ((4.0, 2.5), (3.0, 1.0))
        assert (source[3].ratings_a, source[3].ratings_b) == (None, None)

    def test_files_rewritten_in_other_groups_have_the_same_pairs(self, root):
        old = root / "data" / "train-0.parquet"
        parquet.write_table(parquet.read_table(old), root / "new.parquet", row_group_size=1)
        assert [parquet.read_metadata(path).num_row_groups for path in (old, root / "new.parquet")] == [2, 3]
        before, after = PreferenceParquet(old), PreferenceParquet(root / "new.parquet")
        assert before.labels == after.labels
        assert [_values(before[i]) for i in range(3)] == [_values(after[i]) for i in range(3)]

    def test_a_damaged_group_is_a_bad_record(self, root):
        file = root / "data" / "train-0.parquet"
        page = parquet.read_metadata(file).row_group(0).column(0).data_page_offset
        source = PreferenceParquet(file)
        data = bytearray(file.read_bytes())
        data[page : page + 16] = bytes(16)
        file.write_bytes(data)
        with pytest.raises(BadRecords, match=r"train-0\.parquet: row group 0 cannot be read"):
            source[0]
        assert source[2].instruction == "edit 2"

    def test_unknown_votes_and_wrong_ratings_are_listed_or_left_out(self, root, caplog):
        rows = [self._row(3, "tievote"), self._row(4), self._row(5, scores=(9.0, 1.0, 1.0, 1.0))]
        rows += [
            self._row(6, instruction=None),
            self._row(7, instruction=" \t"),
            self._row(8, scores=(4.0, None, 3.0, 1.0)),
        ]
        self._write(root / "data" / "train-1.parquet", rows)
        expected = (
            r"(?s)5 bad records.*3:scene3_pair: vote_type='tievote': .*leftvote, rightvote, tie"
            r".*5:scene5_pair: left_instruction_following_score=9\.0: .*6:scene6_pair: instruction=None: "
            r".*7:scene7_pair: blank instruction.*8:scene8_pair: rated in part, without left_quality_aesthetic_score"
        )
        with pytest.raises(BadRecords, match=expected):
            PreferenceParquet(root)
        with caplog.at_level(logging.WARNING):
            source = PreferenceParquet(root, skip_bad=True)
        assert "5 bad records" in caplog.text
        assert len(source) == 4
        assert (source[3].key, _values(source[3])) == ("4:scene4_pair", [40, 41, 42])

    @pytest.mark.parametrize("vote", ["rightvote", "tie"])
    def test_contradictory_rows_are_logged_by_key(self, root, caplog, vote):
        again = self._row(0, vote, unique_key="again")
        self._write(root / "data" / "train-1.parquet", [again])
        with caplog.at_level(logging.WARNING):
            PreferenceParquet(root)
        assert "0:scene0_pair, 3:again" in caplog.text

    @pytest.mark.parametrize(("cell", "error"), [({"bytes": b"cut", "path": None}, ImageError), (None, BadRecords)])
    def test_a_broken_image_is_named(self, root, cell, error):
        self._write(root / "data" / "train-1.parquet", [self._row(3), self._row(4, left_output_image=cell)])
        with pytest.raises(error, match=r"left_output_image of 4:scene4_pair \(.*train-1\.parquet row 4 of all\)"):
            PreferenceParquet(root)[4]

    def test_wrong_files_are_named(self, root):
        table = pyarrow.table({"key": ["a"]})
        parquet.write_table(table, root / "data" / "train-2.parquet")
        with pytest.raises(BadRecords, match=r"train-2\.parquet lacks unique_key, .*right_output_image; expected"):
            PreferenceParquet(root)
        (root / "data" / "train-2.parquet").write_bytes(b"PAR?")
        with pytest.raises(BadRecords, match=r"train-2\.parquet is not parquet"):
            PreferenceParquet(root)

    def test_the_error_of_missing_files_shows_the_layout(self, tmp_path):
        for place in (tmp_path, tmp_path / "nowhere.parquet"):
            with pytest.raises(FileNotFoundError, match=r"(?s)vote_type \(leftvote.*TIGER-Lab/EditReward-Data"):
                PreferenceParquet(place)

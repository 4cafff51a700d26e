"""Small data sets of every published layout: two or three good records each, and one whose image is damaged."""

import argparse
import io
import json
import tarfile
from pathlib import Path

import pyarrow
from PIL import Image
from pyarrow import parquet

from rewardedit_jax.data.prepare_command import add_arguments, prepare

DAMAGED = b"\xff\xd8\xff cut"


def picture(value: int, suffix: str = "png") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 6), (value, 20, 30)).save(file, suffix)
    return file.getvalue()


def cell(data: bytes) -> dict:
    return {"bytes": data, "path": None}


def write(file: Path, content: bytes | str | list | dict) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, list | dict):
        content = json.dumps(content)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def write_rows(file: Path, rows: list[dict], group: int = 2) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), file, row_group_size=group)
    return file


def instruct_pix2pix(root: Path) -> list[str]:
    for number, name in enumerate(("0000001", "0000002", "0000003")):
        write(root / name / "prompt.json", {"edit": f"edit {number}"})
        for side in (0, 1):
            data = DAMAGED if (number, side) == (1, 1) else picture(40 * number + side, "jpeg")
            write(root / name / f"7_{side}.jpg", data)
    write(root / "seeds.json", [["0000001", ["7"]], ["0000002", ["7"]], ["0000003", ["7"]]])
    return []


def instruct_pix2pix_parquet(root: Path) -> list[str]:
    images = [(picture(1), picture(2)), (picture(3), DAMAGED), (picture(5), picture(6))]
    rows = [
        {"original_image": cell(a), "edit_prompt": f"edit {i}", "edited_image": cell(b)}
        for i, (a, b) in enumerate(images)
    ]
    write_rows(root / "data" / "train-00000-of-00001.parquet", rows)
    return []


def reward_edit(root: Path) -> list[str]:
    instruct_pix2pix(root)
    reward = [{"Score": s, "Negative Prompt": f"text {s}"} for s in (1, 2.5, 3)]
    write(root.parent / "rewards.json", {f"000000{i}": reward for i in (1, 2, 3)})
    return ["--rewards", str(root.parent / "rewards.json")]


def magicbrush(root: Path) -> list[str]:
    # The turns of session 77 are in two files, the second turn first.
    turns = [("77", 2, 3, 4), ("12", 1, 5, 6), ("77", 1, 2, 3), ("12", 2, 6, None)]
    rows = [
        {
            "img_id": session,
            "turn_index": turn,
            "source_img": cell(picture(a)),
            "mask_img": cell(picture(0)),
            "instruction": f"turn {turn}",
            "target_img": cell(DAMAGED if b is None else picture(b)),
        }
        for session, turn, a, b in turns
    ]
    write_rows(root / "data" / "train-00000-of-00002.parquet", rows[:2])
    write_rows(root / "data" / "train-00001-of-00002.parquet", rows[2:])
    write_rows(root / "data" / "dev-00000-of-00001.parquet", rows[1:2])
    return []


def triplets(root: Path, name: str = "list.json") -> list[str]:
    for value in (10, 20, 30):
        write(root / "images" / f"{value}.png", picture(value))
    write(root / "images" / "bad.png", DAMAGED)
    pairs = [("10", "20"), ("20", "bad"), ("20", "30")]
    rows = [
        {"input": f"images/{a}.png", "output": f"images/{b}.png", "instruction": f"edit {i}", "task": "add"}
        for i, (a, b) in enumerate(pairs)
    ]
    write(root / name, rows)
    return []


def aurora(root: Path) -> list[str]:
    return triplets(root, "test.json")


def sharegpt_4o(root: Path) -> list[str]:
    write(root / "image" / "v2v_1.png", picture(1))
    with tarfile.open(root / "text_and_image_to_image_part_0.tar", "w") as archive:
        for name, data in (("2", picture(2)), ("3", picture(3)), ("4", DAMAGED)):
            member = tarfile.TarInfo(f"./image/v2v_{name}.png")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    pairs = [(["1"], "2"), (["2"], "3"), (["3"], "4")]
    rows = [
        {
            "input_prompt": f"edit {i}",
            "input_image": [f"image/v2v_{name}.png" for name in inputs],
            "output_image": f"image/v2v_{output}.png",
        }
        for i, (inputs, output) in enumerate(pairs)
    ]
    write(root / "text_and_image_to_image.json", rows)
    return []


def pair_rows() -> list[dict]:
    """Of EditReward-Data: a preferred, a tie, and a damaged image; the tie is not rated."""
    rows = []
    for i, (vote, ratings) in enumerate(
        [("leftvote", (4, 2.33, 3, 1)), ("tie", [None] * 4), ("rightvote", (1, 1, 2, 2))]
    ):
        sides = [
            f"{side}_{name}_score"
            for side in ("left", "right")
            for name in ("instruction_following", "quality_aesthetic")
        ]
        rows.append(
            {
                "key": f"scene{i}",
                "unique_key": f"scene{i}_pair",
                "instruction": f"edit {i}",
                "left_img_rel": f"l{i}.png",
                "right_img_rel": f"r{i}.png",
                "vote_type": vote,
                "source_img": cell(picture(10 * i)),
                "left_output_image": cell(picture(10 * i + 1)),
                "right_output_image": cell(DAMAGED if i == 2 else picture(10 * i + 2)),
                **{name: None if value is None else float(value) for name, value in zip(sides, ratings, strict=True)},
            }
        )
    return rows


def editreward_data(root: Path) -> list[str]:
    write_rows(root / "data" / "train-0.parquet", pair_rows(), group=1)
    return []


def editreward_bench(root: Path) -> list[str]:
    def row(i, dataset, shown, ranking, **more):
        ratings = ("instruction_following_1", "visual_quality_1", "instruction_following_2", "visual_quality_2")
        return {
            "id": f"{i}_x",
            "dataset": dataset,
            "instruction": f"edit {i}",
            "comparison_type": shown,
            "ranking": ranking,
            "model_1": "m1",
            "model_2": "m2",
            "source_image": cell(picture(i)),
            "candidate_1": cell(picture(i + 1)),
            "candidate_2": cell(picture(i + 2)),
            **dict(zip(ratings, (3.0, 2.33, 1.0, 2.0), strict=True)),
            **more,
        }

    write_rows(root / "2pair" / "a.parquet", [row(1, "2pair", "AvsB", "B>A"), row(5, "2pair", "AvsB", "A=B")])
    damaged = row(3, "3pair", "BvsC", "C>B", candidate_1=cell(DAMAGED))
    write_rows(root / "3pair" / "b.parquet", [row(3, "3pair", "AvsC", "A>C"), damaged])
    return []


def preferences(root: Path, name: str = "pairs.json") -> list[str]:
    for value in (10, 20, 30):
        write(root / "images" / f"{value}.png", picture(value))
    write(root / "images" / "bad.png", DAMAGED)
    scores = ("model1_dim1_score", "model1_dim2_score", "model2_dim1_score", "model2_dim2_score")
    rows = [
        {"prompt": f"edit {i}", "path_src": "images/10.png", "path1": f"images/{a}.png", "path2": f"images/{b}.png"}
        for i, (a, b) in enumerate([("20", "30"), ("30", "bad"), ("30", "20")])
    ]
    rows[0] |= dict(zip(scores, (4, 3.33, 2, 3), strict=True))
    write(root / name, rows)
    return []


def real_edit(root: Path) -> list[str]:
    write(root / "Real-Edit" / "1.jpg", picture(50, "jpeg"))
    write(root / "Real-Edit" / "2.jpg", DAMAGED)
    lines = {"1.jpg": ["1. Local: Make the cup red.", "7.Style: Make it: a sketch"], "2.jpg": ["3. Add: a cat"]}
    write(root / "real_edit_instruct.json", lines)
    return []


def gedit_rows() -> list[dict]:
    return [
        {
            "key": f"{i % 2}abc",
            "task_type": "style_change",
            "instruction": f"edit {i}",
            "instruction_language": "en" if i < 2 else "cn",
            "Intersection_exist": i > 0,
            "input_image": cell(DAMAGED if i == 2 else picture(10 * i)),
            "input_image_raw": cell(picture(1)),
        }
        for i in range(4)
    ]


def gedit_bench(root: Path) -> list[str]:
    root.mkdir(parents=True)
    for part, rows in enumerate((gedit_rows()[:3], gedit_rows()[3:])):
        table = pyarrow.Table.from_pylist(rows)
        with pyarrow.ipc.new_stream(str(root / f"data-0000{part}-of-00002.arrow"), table.schema) as stream:
            stream.write_table(table)
    return []


def imgedit_bench(root: Path) -> list[str]:
    write(root / "original_images" / "animal" / "1.png", picture(70))
    write(root / "original_images" / "2.png", DAMAGED)
    places = {"12": ("animal/1.png", "alter"), "7": ("2.png", "add"), "100": ("animal/1.png", "add")}
    requests = {
        key: {"id": image, "prompt": f"edit {i}", "edit_type": kind}
        for i, (key, (image, kind)) in enumerate(places.items())
    }
    write(root / "basic_edit.json", requests)
    return []


# Name → function that writes the set under a folder and returns the further arguments of launch/prepare_data.py.
MADE = {
    function.__name__: function
    for function in (
        *(instruct_pix2pix, instruct_pix2pix_parquet, reward_edit, magicbrush, aurora, sharegpt_4o, triplets),
        *(editreward_data, editreward_bench, preferences, real_edit, gedit_bench, imgedit_bench),
    )
}
LISTS = {"triplets": "list.json", "preferences": "pairs.json"}  # layouts whose source is a file


def make(name: str, root: Path) -> tuple[Path, list[str]]:
    """The source of a made set, and its further arguments."""
    arguments = MADE[name](root)
    return root / LISTS.get(name, ""), arguments


def command(name: str, *arguments: object) -> tuple[list[str], int]:
    """What launch/prepare_data.py does."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return prepare(parser.parse_args([name, *map(str, arguments)]))

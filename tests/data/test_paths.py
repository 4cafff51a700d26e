"""The images of a folder, and paths that stay below a root."""

import os

import pytest
from PIL import Image

from rewardedit_jax.data.paths import image_files, inside, output_inside

SIDECAR = bytes.fromhex("00051607000200000000000000000000")  # of macOS, 16 bytes


def picture(file, form=None):
    Image.new("RGB", (8, 8), "red").save(file, form)
    return file


def names(folder):
    return [file.name for file in image_files(folder)]


class TestImageFiles:
    @pytest.mark.parametrize(
        "form", ["PNG", "JPEG", "GIF", "WEBP", "AVIF", "TIFF", "BMP", "PPM", "JPEG2000", "TGA", "ICO", "QOI", "PCX"]
    )
    def test_formats_are_found_by_suffix_and_by_content(self, tmp_path, form):
        (suffix, *_) = (key for key, value in Image.registered_extensions().items() if value == form)
        picture(tmp_path / f"a{suffix.upper()}", form)
        if form != "TGA":  # has no signature
            picture(tmp_path / "b", form)
            picture(tmp_path / "c.dat", form)
        assert names(tmp_path) == [f"a{suffix.upper()}"] + ["b", "c.dat"] * (form != "TGA")

    def test_what_is_no_image_is_counted_and_named_once(self, tmp_path, caplog):
        picture(tmp_path / "a.png")
        (tmp_path / "._a.png").write_bytes(SIDECAR)
        (tmp_path / "sub.png").mkdir()
        contents = {"drawing.eps": b"%!PS-Adobe", "video.mpg": b"\0\0\1\xb3" + bytes(16), ".DS_Store": b"\0\0\0\1Bud1"}
        for name, content in {**contents, "Thumbs.db": b"", "notes.txt": b"text"}.items():
            (tmp_path / name).write_bytes(content)
        picture(tmp_path / ".hidden.png")
        assert names(tmp_path) == ["a.png"]
        (record,) = caplog.records
        assert f"8 of 9 entries of {tmp_path}" in record.message
        assert record.message.endswith(
            ": .DS_Store, ._a.png, .hidden.png, Thumbs.db, drawing.eps, notes.txt, sub.png, video.mpg"
        )

    def test_a_folder_of_images_alone_is_listed_in_silence(self, tmp_path, caplog):
        picture(tmp_path / "b.png")
        picture(tmp_path / "a.PNG")
        assert names(tmp_path) == ["a.PNG", "b.png"]
        assert caplog.records == []

    def test_a_damaged_image_is_listed_so_that_it_fails_by_name(self, tmp_path):
        for name, content in (("cut.png", b"\x89PNG"), ("empty.jpg", b""), ("text.gif", b"text"), ("a.heic", b"heic")):
            (tmp_path / name).write_bytes(content)
        (tmp_path / "link.png").symlink_to(tmp_path / "gone")
        (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
        assert names(tmp_path) == ["a.heic", "cut.png", "empty.jpg", "link.png", "loop.png", "text.gif"]

    def test_a_pipe_is_not_waited_for(self, tmp_path):
        picture(tmp_path / "a.png")
        for name in ("pipe.png", "pipe"):
            os.mkfifo(tmp_path / name)
        (tmp_path / "link.png").symlink_to(tmp_path / "pipe")
        (tmp_path / "folder.png").symlink_to(tmp_path)
        assert names(tmp_path) == ["a.png"]

    def test_a_folder_without_images_is_an_error(self, tmp_path):
        with pytest.raises(ValueError, match=f"no images in {tmp_path}: it is empty"):
            image_files(tmp_path)
        (tmp_path / "notes.txt").write_text("text")
        with pytest.raises(ValueError, match=r"found only notes\.txt"):
            image_files(tmp_path)


POSIX = ("../a.png", "b/../../a.png", "/a.png", "..")
WINDOWS = (r"..\a.png", r"b\..\..\a.png", r"C:\a.png", "C:a.png", r"\a.png", r"\\host\share\a.png")


class TestInside:
    @pytest.mark.parametrize("name", ["a.png", "b/a.png", "./a.png", "b/../a.png", "..a.png", "b/..c/a.png", "ä b.png"])
    @pytest.mark.parametrize("check", [inside, output_inside])
    def test_names_below_the_root(self, tmp_path, name, check):
        assert check(tmp_path, name) == tmp_path / os.path.normpath(name)

    @pytest.mark.parametrize("name", POSIX + WINDOWS)
    @pytest.mark.parametrize("check", [inside, output_inside])
    def test_names_outside_need_leave(self, tmp_path, name, check):
        with pytest.raises(ValueError, match="--allow-outside") as error:
            check(tmp_path, name)
        assert repr(name) in str(error.value)
        assert str(tmp_path) in str(error.value)
        assert check(tmp_path, name, allow_outside=True) == tmp_path / name

    def test_an_absolute_path_below_the_root(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert inside("data", str(tmp_path / "data" / "a.png")) == tmp_path / "data" / "a.png"
        with pytest.raises(ValueError, match="database"):
            inside("data", str(tmp_path / "database" / "a.png"))

    def test_dots_behind_a_link_lead_where_they_are_checked(self, tmp_path):
        (tmp_path / "root").mkdir()
        (tmp_path / "root" / "link").symlink_to(tmp_path / "elsewhere" / "deep")
        assert inside(tmp_path / "root", "link/../a.png") == tmp_path / "root" / "a.png"

    def test_links_are_followed_to_read_but_not_to_write(self, tmp_path):
        (tmp_path / "root").mkdir()
        (tmp_path / "root" / "link").symlink_to(tmp_path)
        assert inside(tmp_path / "root", "link/a.png") == tmp_path / "root" / "link" / "a.png"
        with pytest.raises(ValueError, match=r"link/a\.png"):
            output_inside(tmp_path / "root", "link/a.png")
        (tmp_path / "other").symlink_to(tmp_path / "root")  # the root itself may be a link
        assert output_inside(tmp_path / "other", "new/a.png") == tmp_path / "other" / "new" / "a.png"

    @pytest.mark.parametrize("name", ["a\0.png", "\ud800.png"])
    @pytest.mark.parametrize("allow_outside", [False, True])
    def test_what_cannot_be_a_file_name_is_refused(self, tmp_path, name, allow_outside):
        with pytest.raises(ValueError, match="zero bytes and lone surrogates"):
            inside(tmp_path, name, allow_outside=allow_outside)

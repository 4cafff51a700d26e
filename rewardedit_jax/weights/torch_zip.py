"""Files of PyTorch (`.bin`, `.pth`, `.pt`, `.ckpt`) read without PyTorch, and without running anything in them.

Since 1.6, `torch.save` writes a zip whose members are not compressed: a pickle, which describes the tensors, and one
member for each storage.
"""

import io
import struct
import zipfile
import zlib
from os import PathLike
from pathlib import Path
from typing import BinaryIO

from rewardedit_jax.arguments import check_path
from rewardedit_jax.weights.faults import AGAIN, WeightFileError, impostor, naming
from rewardedit_jax.weights.safe_pickle import UnsafePickle, read_pickle
from rewardedit_jax.weights.torch_pickle import GLOBALS, storage_of
from rewardedit_jax.weights.torch_tensors import Extent, TorchTensors

__all__ = ["LONGEST_PICKLE", "UnsafePickle", "is_legacy", "read_torch_zip"]

LONGEST_PICKLE = 64 << 20  # bytes; names and shapes of 200,000 tensors take less
_SIGNATURE = b"PK\3\4"
_LOCAL_HEADER = struct.Struct("<4s22x2H")  # signature, ..., lengths of name and extra field
_LEGACY = 0x1950A86A20F9469CFC6C.to_bytes(10, "little")  # the number whose pickle begins the older form
_DAMAGED = "it is a damaged zip, or a part of one"
_ZIP_FAULTS = (zipfile.BadZipFile, struct.error, ValueError, NotImplementedError, RuntimeError, OverflowError)


def read_torch_zip(path: str | PathLike) -> TorchTensors:
    """The tensors of a file that `torch.save` wrote, each read when it is accessed, by `TorchTensors`' rule of names.

    Its pickle may name tensors, storages, OrderedDict and plain values only.

    Raises:
      UnsafePickle: the file names or calls something else; nothing was run.
      WeightFileError: the file is missing, damaged, of the form before PyTorch 1.6, or an archive of TorchScript.
    """
    check_path("path", path)
    file = Path(path).expanduser()
    with naming(file), file.open("rb") as stream:
        infos = _directory(file, stream)
        folder = _folder([info.filename for info in infos])
        members = _members(stream, infos)
        _check_byte_order(stream, members.get(f"{folder}byteorder"))
        value = read_pickle(io.BytesIO(_content(stream, members[f"{folder}data.pkl"])), GLOBALS, storage_of)
        start = f"{folder}data/"
        storages = {name.removeprefix(start): at for name, at in members.items() if name.startswith(start)}
        return TorchTensors(file, value, storages)


def is_legacy(file: Path) -> bool:
    """Whether a file has the form that `torch.save` wrote before PyTorch 1.6."""
    with naming(file), file.open("rb") as stream:
        return _LEGACY in stream.read(32)  # protocol 4 begins with the length of a frame


def _directory(file: Path, stream: BinaryIO) -> list[zipfile.ZipInfo]:
    if stream.read(len(_SIGNATURE)) != _SIGNATURE:
        raise WeightFileError(_no_zip(file))
    try:
        with zipfile.ZipFile(stream) as archive:
            return archive.infolist()
    except _ZIP_FAULTS as error:
        raise WeightFileError(f"{_DAMAGED}: {error}. {AGAIN}") from error


def _members(stream: BinaryIO, infos: list[zipfile.ZipInfo]) -> dict[str, Extent]:
    """Where the content of each member of a zip is."""
    checked = any(info.CRC for info in infos)  # torch.serialization.set_crc32_options(False) writes zeros
    try:
        # No more than the file has: members that share bytes would be read again and again.
        if sum(info.file_size for info in infos) > stream.seek(0, io.SEEK_END):
            raise zipfile.BadZipFile("members are larger than the file")
        members = {info.filename: _extent(stream, info, checked) for info in infos}
    except _ZIP_FAULTS as error:
        raise WeightFileError(f"{_DAMAGED}: {error}. {AGAIN}") from error
    if len(members) < len(infos):
        raise WeightFileError("it has two members of one name, which PyTorch never writes.")
    return members


def _extent(stream: BinaryIO, info: zipfile.ZipInfo, checked: bool) -> Extent:
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & 1:
        raise zipfile.BadZipFile(f"{info.filename} is compressed or encrypted, which PyTorch never does")
    stream.seek(info.header_offset)
    signature, name, extra = _LOCAL_HEADER.unpack(stream.read(_LOCAL_HEADER.size))
    if signature != _SIGNATURE or stream.read(name) != info.orig_filename.encode():
        raise zipfile.BadZipFile(f"{info.filename} is not where the directory of the zip says")
    position = info.header_offset + _LOCAL_HEADER.size + name + extra
    if position + info.file_size > stream.seek(0, io.SEEK_END):
        raise zipfile.BadZipFile(f"{info.filename} ends behind the end of the file")
    return Extent(position, info.file_size, info.CRC if checked else None)


def _no_zip(file: Path) -> str:
    if is_legacy(file):
        return (
            "it has the form of PyTorch before 1.6, which is no zip. Convert it where torch is installed: "
            f"torch.save(torch.load({file.name!r}, 'cpu', weights_only=True), {file.name!r})."
        )
    return impostor(file) or f"it is not a file of torch.save. {AGAIN}"


def _folder(names: list[str]) -> str:
    """The folder in the zip, with a slash: it has the name of the file that was written, or any other."""
    found = [name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(found) != 1:
        raise WeightFileError(f"it is a zip without one data.pkl, so it is not a file of torch.save. {AGAIN}")
    if any(name.startswith((f"{found[0]}code/", f"{found[0]}constants.pkl")) for name in names):
        raise WeightFileError(
            "it is an archive of TorchScript, which holds a program. Save the state dict where torch is installed: "
            "torch.save(torch.jit.load(file).state_dict(), new_file)."
        )
    return found[0]


def _check_byte_order(stream: BinaryIO, member: Extent | None) -> None:
    # Older files have no such member, and were written by machines with little-endian numbers.
    if member is not None and (order := _content(stream, member)) != b"little":
        raise WeightFileError(f"its numbers have the byte order {order[:20]!r}; only 'little' is read.")


def _content(stream: BinaryIO, member: Extent) -> bytes:
    if member.size > LONGEST_PICKLE:
        raise WeightFileError(f"its pickle takes {member.size:,} bytes: expected at most {LONGEST_PICKLE:,}.")
    stream.seek(member.position)
    content = stream.read(member.size)
    if member.crc is not None and zlib.crc32(content) != member.crc:
        raise WeightFileError(f"its pickle or the note of its byte order differs from its checksum. {AGAIN}")
    return content

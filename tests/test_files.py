import os
import stat

import pytest

from fairjax import files


def test_all_files_are_written_or_none(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("older")

    def fail(stream):
        stream.write(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        files.write_whole({first: lambda stream: stream.write(b"new"), second: fail})
    assert [path.read_text() for path in tmp_path.iterdir()] == ["older"]
    files.write_whole({first: lambda stream: stream.write(b"new")})
    assert [path.read_text() for path in tmp_path.iterdir()] == ["new"]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "real" / "file")
    files.write_whole({link: lambda stream: stream.write(b"new")})
    assert link.is_symlink()
    assert (tmp_path / "real" / "file").read_bytes() == b"new"


def test_a_name_may_be_as_long_as_names_can_be(tmp_path):
    path = tmp_path / ("x" * 255)
    files.write_whole({path: lambda stream: stream.write(b"new")})
    assert path.read_bytes() == b"new"


def test_what_is_no_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(OSError, match="is there and is no file"):
            files.check_writable(tmp_path / name)
        with pytest.raises(OSError, match="is there and is no file"):
            files.write_whole({tmp_path / name: lambda stream: None})
    assert stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode)
    with pytest.raises(OSError, match="none"):
        files.check_writable(tmp_path / "none" / "file")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "pipe"]


def test_a_folder_that_was_made_goes_when_the_work_fails(tmp_path):
    kept = tmp_path / "kept"
    kept.mkdir()
    seen = []

    def work(folder):
        with files.folder_for(folder, ["a", "b"]) as paths:
            seen.append((paths == [folder / "a", folder / "b"], folder.is_dir()))
            raise ValueError("no")

    for folder in (tmp_path / "new" / "deep", kept):
        with pytest.raises(ValueError, match="no"):
            work(folder)
    assert seen == [(True, True)] * 2
    assert list(tmp_path.iterdir()) == [kept]
    assert list(kept.iterdir()) == []

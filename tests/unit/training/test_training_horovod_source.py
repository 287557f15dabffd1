"""What is changed in Horovod's source before it is compiled."""

import pytest

from airflow_ml.training.horovod_source import HorovodBuildError, Patch, apply

PATCH = Patch("folder/file.cc", "yield();", "await();")


@pytest.fixture
def source(tmp_path):
    (tmp_path / "folder").mkdir()
    return tmp_path


def test_one_place_is_changed(source):
    (source / PATCH.file).write_text("a\nyield();\nb\n")
    apply(PATCH, source)
    assert (source / PATCH.file).read_text() == "a\nawait();\nb\n"


@pytest.mark.parametrize(("text", "times"), [("sleep();", 0), ("yield(); yield();", 2)])
def test_a_source_that_is_not_the_one_that_was_patched_is_refused_and_left_as_it_is(source, text, times):
    (source / PATCH.file).write_text(text)
    with pytest.raises(HorovodBuildError, match=rf"folder/file\.cc has what is to be patched in it {times} times"):
        apply(PATCH, source)
    assert (source / PATCH.file).read_text() == text

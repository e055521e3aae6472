"""The benchmark of image files runs, with few of them."""

import pytest

from benchmarks import image_files


def test_both_ways_decode_and_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    image_files.main(["--count", "40", "--rounds", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in lines if line.startswith("|")][2:] == [
        "vae_fast, to the array",
        "Pillow alone",
    ]
    assert lines[-1].startswith("largest process of either: ")

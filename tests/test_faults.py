"""The fault campaign works for a case of each kind and notices errors; `make faults` runs all of it."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults import calls, damage, disk, judge, kills, library, results
from tests.faults.campaign import Campaign, Outcome, train
from tests.faults.commands import Commands, Done

Folder = Callable[[Path], object]


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    folder = tmp_path_factory.mktemp("faults")
    try:
        built = library.build(folder)
    except RuntimeError as error:
        pytest.skip(str(error))
    return Campaign(folder, 0, built, 1, {}, can_mount=disk.can_mount(folder))


@pytest.fixture(scope="module")
def commands(campaign: Campaign) -> Iterator[Commands]:
    with campaign.alone() as found:
        yield found


@pytest.fixture(scope="module")
def reference(campaign: Campaign, commands: Commands) -> Path:
    assert [*judge.succeeded(train(commands, campaign.folder / "reference"))] == []
    return campaign.folder / "reference"


def test_a_run_is_killed_in_several_phases(campaign: Campaign, commands: Commands) -> None:
    whole = kills.whole_run(campaign, commands, "fp32")
    *killed, last = kills.killed(campaign, commands, 1, whole)
    assert len({*kills.PHASES} & {one.ended for one in killed}) > 1  # a kill may come late on a busy machine
    assert not [one for one in killed if one.wrong]
    assert (last.ended, last.wrong) == ("the same run", ())


def test_a_run_survives_failing_calls(campaign: Campaign, commands: Commands, reference: Path) -> None:
    ends = set()
    for number, error in ((25, "ENOSPC"), (40, "EIO"), (60, library.KILL)):
        pair = calls.Pair("a run that begins", "changes", number, error, False)
        (outcome,) = calls.failing(campaign, commands, reference, None, pair)
        ends.add(outcome.ended)
        assert outcome.wrong == ()
    assert ends >= {"error: and a path; then the same run", "killed; then the same run"}


def test_a_run_survives_a_full_disk(campaign: Campaign, commands: Commands, reference: Path) -> None:
    fill, room = (disk.few_files, 8) if campaign.can_mount else (disk.limited, 9000)
    (outcome,) = fill(campaign, commands, reference, room)
    assert (outcome.ended, outcome.wrong) == ("error: and a path; then the same run", ())


def test_a_damaged_run_is_recovered(campaign: Campaign, commands: Commands) -> None:
    whole = damage.whole_runs(campaign, commands)
    (bit,) = (
        one for one in damage.damages(campaign, whole.begun) if one.name == "state.json with a bit flipped in byte 7"
    )
    evaluated, resumed = damage.damaged(campaign, commands, whole, bit, page=False)
    assert evaluated.ended == resumed.ended == "done, with a warning"
    ignored = damage.Damage("links", "not harmed", lambda run: None)
    stranger = whole._replace(done=whole.begun)  # in place of the run of three epochs
    _, resumed = damage.damaged(campaign, commands, stranger, ignored, page=False)
    assert resumed.ended == "wrong"


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))


HARM: dict[str, Folder] = {
    "step-00000012/optimizer.safetensors differs": lambda run: _flip(run / "checkpoints/latest/optimizer.safetensors"),
    "step-00000012/state.json differs": lambda run: _flip(run / "checkpoints/latest/state.json"),
    "samples.png differs": lambda run: _flip(run / "pictures" / "samples.png"),
    "metrics.jsonl differs": lambda run: (run / "metrics.jsonl").write_text('{"epoch": 1}\n'),
    "config.toml differs": lambda run: (run / "config.toml").write_text("seed = 1\n"),
    "latest and best are": lambda run: (run / "checkpoints" / "best").unlink(),
    "checkpoints ": lambda run: (run / "checkpoints" / "step-00000008").mkdir(),
    "left behind: .lock": lambda run: (run / ".lock").touch(),
    "left behind: checkpoints/.x.tmp": lambda run: (run / "checkpoints" / ".x.tmp").touch(),
}


@pytest.mark.parametrize("line", HARM)
def test_a_difference_is_noticed(line: str, reference: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(reference, run, symlinks=True)
    assert [*judge.differences(run, reference)] == []
    HARM[line](run)
    (found,) = judge.differences(run, reference)
    assert found.startswith(line)


def test_a_wrong_end_is_noticed(tmp_path: Path) -> None:
    line, trace = f"error: {tmp_path}/file: No space left on device\n", "Traceback (most recent call last):\n"
    assert [*judge.refused(Done(1, "", line, {}), tmp_path)] == []
    for done in (Done(0, "", line, {}), Done(1, "", "", {}), Done(1, "", line * 2, {}), Done(1, trace, line, {})):
        assert len([*judge.refused(done, tmp_path)]) == 1
    assert len([*judge.refused(Done(1, "", "error: the output: No space left on device\n", {}), tmp_path)]) == 1
    assert [*judge.succeeded(Done(0, "", "warning: so\n", {}))] == [*judge.interrupted(Done(-9, "", "", {}))] == []
    for done in (Done(1, "", "", {}), Done(0, "", "what\n", {}), Done(-9, "", "", {})):
        assert len([*judge.succeeded(done)]) == 1
    assert len([*judge.interrupted(Done(-9, "", line, {}))]) == len([*judge.interrupted(Done(0, "", "", {}))]) == 1


def test_the_results_show_what_is_wrong(tmp_path: Path) -> None:
    outcomes = [Outcome("kills", "run 0", "killed in", "save"), Outcome("kills", "run 1", "killed in", "save", ("oh",))]
    found = results.summary(Campaign(tmp_path, 3, None, 1, {}, can_mount=False), outcomes, 1.0)
    assert found["counts"] == [{"kind": "kills", "group": "killed in", "ended": "save", "cases": 2}]
    assert found["wrong"] == [{"kind": "kills", "case": "run 1", "lines": ["oh"]}]
    assert "seed 3" in results.markdown(found)
    assert json.loads(json.dumps(found)) == found

"""A saved run comes back to the bit, to the run that it belongs to and to no other."""

import pytest
import torch

from hessian_directions.errors import ArtifactError
from hessian_directions.saved_run import SavedRun


def test_a_state_comes_back_to_the_bit(tmp_path):
    rows = torch.randn(16, 5)
    state = {"basis": [rows[:3]], "share": 0.1, "history": [{"epoch": 1}], "found": None}
    run = SavedRun(tmp_path / "folder" / "state", {"seed": 1}, 0)
    assert run.read() is None
    run.write(state)
    read = SavedRun(run.path, {"seed": 1}, 0).read()
    assert torch.equal(read["basis"][0], rows[:3])
    assert read["basis"][0].untyped_storage().nbytes() == 3 * 5 * 4  # not that of all rows
    assert {**read, "basis": None} == {**state, "basis": None}
    assert [file.name for file in run.path.parent.iterdir()] == ["state"]


@pytest.mark.parametrize(
    ("identity", "message"),
    [
        ({"seed": 2, "k": 3}, "saved by a run with seed 1, not 2"),
        ({"seed": 1}, "saved by a run with k 3, not None"),
        ({"seed": 1, "k": 3, "tolerance": 0.1}, "saved by a run with tolerance None, not 0.1"),
    ],
)
def test_a_state_of_another_run_is_refused(tmp_path, identity, message):
    SavedRun(tmp_path / "state", {"seed": 1, "k": 3}, 0).write({})
    with pytest.raises(ArtifactError, match=f"state was {message}; delete it to start again"):
        SavedRun(tmp_path / "state", identity, 0).read()


@pytest.mark.parametrize("content", [b"", b"half a file", None])
def test_a_file_that_is_no_state_is_refused(tmp_path, content):
    path = tmp_path / "state"
    if content is None:
        torch.save([1], path)
    else:
        path.write_bytes(content)
    with pytest.raises(ArtifactError, match="state is not a saved run"):
        SavedRun(path, {}, 0).read()


def test_it_is_due_when_the_last_save_is_long_enough_ago(tmp_path):
    run = SavedRun(tmp_path / "state", {}, 1e-4)
    assert SavedRun(run.path, {}, 0).due
    assert not SavedRun(run.path, {}, 3600).due

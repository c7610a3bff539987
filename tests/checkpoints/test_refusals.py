"""Folders that are known and not read end with the way out, others with what they hold."""

from pathlib import Path

import pytest
from tests.checkpoints.conftest import save_bin, save_state
from tests.models import anchor_weights

from offaxis.checkpoints.access import Access
from offaxis.checkpoints.formats import format_of, is_readable, open_checkpoint
from offaxis.errors import CheckpointError

ALLOWED = Access(pickle=True)


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    ("names", "way_out"),
    [
        (["mp_rank_00/model_optim_rng.pt"], "Megatron-Bridge"),
        (["mp_rank_00_000/model_optim_rng.pt"], "Megatron-Bridge"),
        ([".metadata", "common.pt", "__0_0.distcp"], "Megatron-Bridge"),
        (["dist_ckpt/common.pt", "huggingface/config.json"], "--backend megatron"),
        (["zero_pp_rank_0_mp_rank_00_optim_states.pt"], "ds_to_universal"),
        (["bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"], "ds_to_universal"),
        (["__0_0.distcp", "__1_0.distcp"], "not saved to its end"),
    ],
)
def test_a_known_format_that_is_not_read(tmp_path: Path, names: list[str], way_out: str) -> None:
    folder = touch(tmp_path / "iter_0000063", *names)
    assert not is_readable(folder)
    with pytest.raises(CheckpointError, match=way_out) as raised:
        open_checkpoint(folder, ALLOWED)
    assert names[0].split("/")[0] in raised.value.found


def test_megatrons_own_metadata_tells_it(tmp_path: Path) -> None:
    folder = touch(tmp_path, ".metadata", "__0_0.distcp")
    assert is_readable(folder)
    (folder / "metadata.json").write_text('{"sharded_backend": "torch_dist"}')
    assert not is_readable(folder)


def test_what_is_not_known_says_what_was_found(tmp_path: Path) -> None:
    for names, found in (
        ([], "an empty folder"),
        (["notes.txt"], "notes.txt"),
        ([f"{i}.dat" for i in range(9)], "5.dat and 3 more"),
    ):
        folder = touch(tmp_path / f"with-{len(names)}", *names)
        folder.mkdir(exist_ok=True)
        assert format_of(folder) is None
        with pytest.raises(CheckpointError, match=found):
            open_checkpoint(folder, ALLOWED)
    with pytest.raises(CheckpointError, match="no such folder"):
        open_checkpoint(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="a file"):
        open_checkpoint(touch(tmp_path, "weights.bin") / "weights.bin")


def test_pickled_files_that_hold_no_state_are_refused(tmp_path: Path) -> None:
    for state, found in (([1, 2], "list"), ({1: 2}, "dict"), ({}, "nothing"), ({"a": 1}, "a")):
        save_state(tmp_path / "pytorch_model.bin", state)
        with pytest.raises(CheckpointError) as raised:
            open_checkpoint(tmp_path, ALLOWED).tensors()
        assert raised.value.found == found


def test_shards_and_index_of_pickles_belong_together(tmp_path: Path) -> None:
    folder = save_bin(tmp_path, anchor_weights(), shards=2)
    extra = {"model.extra.weight": anchor_weights()["model.norm.weight"]}
    shard = folder / "pytorch_model-00002-of-00002.bin"
    save_state(shard, extra)
    with pytest.raises(CheckpointError, match="do not belong together"):
        open_checkpoint(folder, ALLOWED).tensors()
    shard.unlink()
    with pytest.raises(CheckpointError, match="no such file"):
        open_checkpoint(folder, ALLOWED).tensors()


def test_universal_slices_that_are_none_are_refused(tmp_path: Path) -> None:
    save_state(tmp_path / "zero" / "w" / "fp32.pt", {"param": None})
    with pytest.raises(CheckpointError, match='"param"'):
        open_checkpoint(tmp_path, ALLOWED).tensors()

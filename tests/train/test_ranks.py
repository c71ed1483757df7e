"""Several gloo ranks against one process: the same numbers, the same order, checkpoints read by any number of them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from flantune.errors import StateError
from flantune.train.checkpoint import latest_checkpoint, load_weights
from flantune.train.parallel import ALONE, _account, _tie_alike
from train.ranks import begin, launch, losses, model_of, result, run

KINDS = [(family, tied) for family in ("t5", "llama") for tied in ("tied", "untied")]


def assert_near(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float) -> None:
    """Within `tolerance` of each tensor's largest number."""
    assert one.keys() == other.keys()
    for name in one:
        scale = float(other[name].abs().max())
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=tolerance * max(1.0, scale), msg=name)


def saved_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The newest checkpoint, read by one process."""
    found = latest_checkpoint(folder / "checkpoints")
    assert found is not None
    model = model_of("t5", True)
    load_weights(found, model)
    return {name: p.detach() for name, p in model.named_parameters()}


def test_two_ranks_give_what_one_process_gives(tmp_path: Path):
    """Fifty steps of Adafactor on shards; a training begun by one process, gone on with by two, ended by one; the step
    that a held-out loss chooses; adapters; weights that rank 0 alone has read. One start of torchrun for all: it takes
    seconds."""
    run(tmp_path / "one", ALONE, ["a=fifty:t5:tied", "c=until:t5:adamw:12", "d=held_out", "e=adapted:t5:4"])
    run(tmp_path / "two", ALONE, ["c=until:t5:adamw:4"])
    launch(
        tmp_path / "two",
        2,
        ["a=fifty:t5:tied", "c=until:t5:adamw:8", "d=held_out", "e=adapted:t5:4", "f=sent:t5:untied"],
    )
    assert_near(result(tmp_path / "two", "a"), result(tmp_path / "one", "a"), 1e-6)

    at_eight = result(tmp_path / "two", "c")
    files = {p.name for p in (tmp_path / "two" / "c" / "checkpoints" / "step-8").iterdir()}
    assert {"shard-00001-model-00001-of-00001.safetensors", "manifest.json"} < files
    assert all(torch.equal(at_eight[k], v) for k, v in saved_weights(tmp_path / "two" / "c").items())
    run(tmp_path / "two", ALONE, ["c=until:t5:adamw:12"])
    whole, changing = losses(tmp_path / "one", "c"), losses(tmp_path / "two", "c")
    assert list(changing) == list(whole) == [str(step) for step in range(1, 13)]
    assert changing == pytest.approx(whole, rel=1e-5)
    assert_near(result(tmp_path / "two", "c"), result(tmp_path / "one", "c"), 1e-5)

    one, two = result(tmp_path / "one", "d"), result(tmp_path / "two", "d")
    assert torch.equal(one["chosen"], two["chosen"])
    chosen, stopped = one["chosen"].tolist()
    assert chosen < stopped < 30
    torch.testing.assert_close(one["curve"], two["curve"], rtol=1e-5, atol=0)

    assert_adapters_alone_are_trained(tmp_path / "one", tmp_path / "two", "e", "t5")
    assert_the_weights_given(tmp_path / "two", "f", "t5", "untied")


def assert_adapters_alone_are_trained(one: Path, many: Path, place: str, family: str) -> None:
    assert losses(many, place) == pytest.approx(losses(one, place), rel=1e-5)
    weights = result(many, place)
    assert_near(weights, result(one, place), 1e-5)
    before = model_of(family, True).state_dict()
    frozen = {name: p for name, p in weights.items() if ".lora_" not in name}
    assert frozen and all(torch.equal(p, before[name.replace(".base_layer", "")]) for name, p in frozen.items())
    assert all(p.abs().max() > 1e-4 for name, p in weights.items() if "lora_B" in name)  # zero at first


def assert_the_weights_given(folder: Path, place: str, family: str, tied: str) -> None:
    given = {name: p.detach() for name, p in model_of(family, tied == "tied").named_parameters()}
    got = result(folder, place)
    assert got.keys() == given.keys() and all(torch.equal(got[name], p) for name, p in given.items())


def test_a_rank_that_has_another_model_than_rank_0_is_told_so():
    one = model_of("t5", True)
    _tie_alike(one, _account(model_of("t5", True)))
    with pytest.raises(StateError, match=r"got others \('lm_head.weight' differs\)"):
        smaller = _account(one) | {"lm_head.weight": ("shared.weight", (96, 40), "torch.float32")}
        _tie_alike(one, smaller)
    with pytest.raises(StateError, match="same model folder"):
        _tie_alike(one, _account(model_of("llama", True)))


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
def test_fifty_steps_of_adafactor_are_the_same_on_any_number_of_ranks(size: int, tmp_path: Path):
    names = [f"{family}-{tied}=fifty:{family}:{tied}" for family, tied in KINDS]
    run(tmp_path / "one", ALONE, names)
    launch(tmp_path / "many", size, names)
    for family, tied in KINDS:
        place = f"{family}-{tied}"
        assert_near(result(tmp_path / "many", place), result(tmp_path / "one", place), 1e-6)
        assert losses(tmp_path / "many", place) == pytest.approx(losses(tmp_path / "one", place), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["t5", "llama"])
def test_adapters_go_on_from_one_rank_to_two_and_back(family: str, tmp_path: Path):
    run(tmp_path / "one", ALONE, [f"a=adapted:{family}:9"])
    run(tmp_path / "many", ALONE, [f"a=adapted:{family}:3"])
    launch(tmp_path / "many", 2, [f"a=adapted:{family}:6"])
    run(tmp_path / "many", ALONE, [f"a=adapted:{family}:9"])
    assert_adapters_alone_are_trained(tmp_path / "one", tmp_path / "many", "a", family)


@pytest.mark.slow
def test_four_ranks_get_their_parts_of_any_model(tmp_path: Path):
    launch(tmp_path, 4, [f"{family}-{tied}=sent:{family}:{tied}" for family, tied in KINDS])
    for family, tied in KINDS:
        assert_the_weights_given(tmp_path, f"{family}-{tied}", family, tied)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["t5", "llama"])
def test_compiled_layers_on_two_ranks_give_what_plain_ones_give_on_one(family: str, tmp_path: Path):
    run(tmp_path / "one", ALONE, [f"a=compiled:{family}:plain"])
    launch(tmp_path / "two", 2, [f"a=compiled:{family}:compile"])
    assert losses(tmp_path / "two", "a") == pytest.approx(losses(tmp_path / "one", "a"), rel=1e-5)
    assert_near(result(tmp_path / "two", "a"), result(tmp_path / "one", "a"), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adafactor", "adamw"])
@pytest.mark.parametrize("family", ["t5", "llama"])
def test_the_number_of_ranks_may_change_at_every_resume(family: str, optimizer: str, tmp_path: Path):
    run(tmp_path / "one", ALONE, [f"a=until:{family}:{optimizer}:15"])
    many = tmp_path / "many"
    launch(many, 2, [f"a=until:{family}:{optimizer}:3"])
    run(many, ALONE, [f"a=until:{family}:{optimizer}:6"])
    launch(many, 4, [f"a=until:{family}:{optimizer}:10"])
    launch(many, 2, [f"a=until:{family}:{optimizer}:12"])
    run(many, ALONE, [f"a=until:{family}:{optimizer}:15"])
    assert losses(many, "a") == pytest.approx(losses(tmp_path / "one", "a"), rel=1e-5)
    assert_near(result(many, "a"), result(tmp_path / "one", "a"), 1e-5)


@pytest.mark.slow
def test_a_disk_that_is_full_on_one_rank_stops_all_and_leaves_the_last_whole_checkpoint(tmp_path: Path):
    with pytest.raises(AssertionError, match=r"StateError: .*step-6: could not be written"):
        launch(tmp_path, 2, ["a=failing"])
    assert [p.name for p in (tmp_path / "a" / "checkpoints").iterdir()] == ["step-3"]
    launch(tmp_path, 2, ["a=until:t5:adafactor:6"])
    run(tmp_path / "one", ALONE, ["a=until:t5:adafactor:6"])
    assert_near(result(tmp_path, "a"), result(tmp_path / "one", "a"), 1e-5)


@pytest.mark.slow
def test_a_schedulers_warning_finishes_the_step_and_saves(tmp_path: Path):
    """SIGTERM to torchrun, as Slurm sends it; what follows goes on from that very step."""
    started = begin(tmp_path, 2, ["a=until:llama:adafactor:2000"])
    checkpoints = tmp_path / "a" / "checkpoints"
    while not (checkpoints / "step-3").is_dir():
        assert started.poll() is None, started.communicate()[1][-3000:]
        time.sleep(0.05)
    started.terminate()
    started.communicate()
    found = latest_checkpoint(checkpoints)
    assert found is not None and 3 <= found.step < 2000
    assert not any(checkpoints.glob(".tmp-*"))
    lines = (tmp_path / "a" / "metrics.jsonl").read_text().count("\n")
    assert lines == found.step // 10
    launch(tmp_path, 2, [f"a=until:llama:adafactor:{found.step + 1}"])
    assert list(losses(tmp_path, "a")) == [str(found.step + 1)]


@pytest.mark.slow
def test_killed_while_it_saves_from_two_ranks_the_last_whole_checkpoint_is_gone_on_from(tmp_path: Path):
    started = begin(tmp_path, 2, ["a=until:llama:adafactor:60"])
    checkpoints = tmp_path / "a" / "checkpoints"
    while not ((checkpoints / "step-3").is_dir() and any(checkpoints.glob(".tmp-*"))):
        if started.poll() is not None:
            break
        time.sleep(0.001)
    started.kill()  # the workers die with torchrun, or see the other end of a sum gone
    started.communicate()
    launch(tmp_path, 2, ["a=until:llama:adafactor:60"])
    run(tmp_path / "one", ALONE, ["a=until:llama:adafactor:60"])
    assert_near(result(tmp_path, "a"), result(tmp_path / "one", "a"), 1e-5)
    assert not any(checkpoints.glob(".tmp-*"))

"""A plan of a recipe: what fits where, what it says of its figures, and the command."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from flantune.cli.app import app
from flantune.errors import RecipeError
from flantune.pipeline.plan import Job, make_plan, row_tokens
from flantune.recipe import parse_recipe
from flantune.tokens.card import DataCard, TaskCount
from flantune.train.hardware import HARDWARE, USABLE, parse_hardware


def small(**more: object) -> Job:
    raw = {
        "name": "small",
        "collections": [{"path": "nowhere"}],
        "tokens": {"inputs_len": 64, "targets_len": 16},
        "model": {
            "family": "t5",
            "size": {"d_model": 32, "layers": 1, "heads": 2, "d_kv": 16, "d_ff": 64},
            "tokenizer": {"vocab_size": 512},
        },
        "train": {"steps": 10, "batch_rows": 8, "micro_rows": 4, "precision": "fp32"},
    }
    return Job.of_recipe(parse_recipe({**raw, **more}))


def test_flan_palm_540b_takes_the_papers_hours_on_its_chips_at_the_share_the_paper_reached():
    """512 v4 chips for 37 hours: about 30 % of their peak (spec 7.4)."""
    plan = make_plan(Job.of_preset("flan-palm-540b"), ["tpu-v4:512"], share=0.30)
    (place,) = plan.places
    assert plan.paper == pytest.approx(5.574e21, rel=1e-3)
    assert 37 < place.hours < 55  # activations are computed twice where they must fit; the paper does not say
    assert "512 devices need a row each" in place.flaw


def test_the_fewest_devices_that_hold_it_are_chosen():
    plan = make_plan(Job.of_preset("llama-3.1-8b"), ["h100", "h100:1", "h100:8"])
    fewest, one, eight = plan.places
    assert fewest.count == 2 and not fewest.flaw and "a row needs" in one.flaw and not eight.flaw
    assert fewest.memory.total <= USABLE * HARDWARE["h100"].memory < one.memory.total
    assert eight.memory.total < fewest.memory.total or eight.micro_rows > fewest.micro_rows
    assert eight.hours * 8 <= fewest.hours * 2 * 1.0001


def test_adapters_fit_where_the_whole_model_does_not():
    def job(adapter: dict[str, object] | None) -> Job:
        raw = {"name": "r", "preset": "llama-3.1-8b", "collections": [{"path": "x"}]}
        return Job.of_recipe(parse_recipe({**raw, "model": {"adapter": adapter}} if adapter else raw))

    whole = make_plan(job(None), ["a100:1"]).places[0]
    lora = make_plan(job({"load": "bf16"}), ["a100:1"]).places[0]
    qlora = make_plan(job({"load": "4bit"}), ["l4:1"]).places[0]
    assert whole.flaw and not lora.flaw and not qlora.flaw
    assert lora.memory.optimizer < 0.02 * whole.memory.optimizer
    trained = make_plan(job({"rank": 16}), ["h100"]).trained
    # r (in + out) of q, k, v, o, gate, up, down in 32 layers
    assert trained == 32 * 16 * ((4096 + 4096) * 2 + (4096 + 1024) * 2 + (4096 + 14336) * 3)


def test_hours_are_operations_over_share_of_peak():
    plan = make_plan(small(), ["h100:1"], share=0.5)
    (place,) = plan.places
    assert (place.share, place.share_from, place.checkpointed) == (0.5, "given", False)
    assert place.hours == pytest.approx(plan.flops / (67e12 * 0.5) / 3600)


def test_what_is_done_in_a_second_is_said_in_useful_tokens_once_the_data_is_built():
    job = small()
    bare = make_plan(job, ["h100:1"]).places[0]
    places = job.train.steps * job.train.batch_rows * 80
    assert bare.places_per_second * bare.hours * 3600 == pytest.approx(places)
    assert bare.tokens_per_second is None and "places of the rows" in make_plan(job, ["h100:1"]).to_text()
    card = DataCard(inputs_len=64, targets_len=16, rows=10)
    card.tasks["t"] = TaskCount(examples=40, input_tokens=500, target_tokens=100)
    card.input_lengths, card.target_lengths = {"4": 30, "32": 10}, {"2": 40}
    built = make_plan(job, ["h100:1"], card=card)
    assert built.places[0].tokens_per_second == pytest.approx(built.places[0].places_per_second * 600 / 800)
    assert built.to_json()["hardware"][0]["tokens_per_second"] == built.places[0].tokens_per_second
    assert "useful tokens" in built.to_text()


def test_adapters_do_more_in_a_second_than_the_whole_model():
    def rate(adapter: dict[str, object] | None) -> float:
        raw = {"name": "r", "preset": "llama-3.2-1b", "collections": [{"path": "x"}]}
        job = Job.of_recipe(parse_recipe({**raw, "model": {"adapter": adapter}} if adapter else raw))
        return make_plan(job, ["h100:1"], share=0.4).places[0].places_per_second

    # A third of the products' operations are gradients of weights that adapters leave frozen.
    assert 1.2 < rate({"rank": 8}) / rate(None) < 1.5


def test_a_stage_on_plain_text_before_is_in_the_hours():
    pretrain = {"steps": 5, "batch_rows": 4, "window": 32, "inputs_len": 64, "targets_len": 16, "precision": "fp32"}
    alone, both = make_plan(small(), ["h100:1"]), make_plan(small(pretrain=pretrain), ["h100:1"])
    assert alone.pretrain_flops == 0 and both.flops == alone.flops
    # 20 rows of the same lengths against 80; attention over other examples makes the difference from a quarter.
    assert both.pretrain_flops == pytest.approx(alone.flops / 4, rel=0.2)
    assert both.places[0].hours == pytest.approx(alone.places[0].hours * (1 + both.pretrain_flops / alone.flops))
    assert "on plain text before" in both.to_text()


def test_lengths_come_from_the_runs_data_where_it_is_built():
    job = small()
    assumed, origin = row_tokens(job.tokens, None)
    assert origin == "assumed" and (assumed.example_inputs, assumed.example_targets) == (64, 16)
    card = DataCard(inputs_len=64, targets_len=16, rows=10)
    card.input_lengths, card.target_lengths = {"4": 30, "32": 10}, {"2": 40}
    measured, origin = row_tokens(job.tokens, card)
    assert origin == "measured"
    # 30 examples of about 6 tokens and 10 of about 48: a token meets (30 * 6**2 + 10 * 48**2) / (30 * 6 + 10 * 48)
    assert measured.example_inputs == pytest.approx((30 * 36 + 10 * 2304) / 660)
    assert make_plan(job, ["h100"], card=card).flops != make_plan(job, ["h100"]).flops


def test_a_few_steps_done_here_say_what_this_machine_reaches():
    plan = make_plan(small(), ["here"], measure=True)
    assert plan.measured is not None and plan.measured.rate > 0 and plan.measured.precision == "fp32"
    (place,) = plan.places
    assert place.share_from == "measured" and place.device.measured and place.hours > 0
    assert place.hours * 3600 * plan.measured.rate == pytest.approx(plan.flops, rel=1e-6)


def test_a_model_too_large_to_measure_here_is_refused_before_it_is_made():
    from flantune.errors import StateError

    with pytest.raises(StateError, match=r"--measure: Flan-PaLM-540B needs 4539 GB"):
        make_plan(Job.of_preset("flan-palm-540b"), ["here"], measure=True)


@pytest.mark.parametrize("text", ["h1000", "h100:", "h100:0", "h100:x", "here:2"])
def test_unknown_hardware_is_an_error(text):
    with pytest.raises(RecipeError, match="--hardware"):
        parse_hardware(text)


def test_every_device_has_a_source_and_plausible_figures():
    for device in HARDWARE.values():
        assert device.source and device.bf16 > device.fp32 > 1e12 and 1e10 < device.memory < 1e12
    assert parse_hardware("H100:8").count == 8 and parse_hardware("l4").count is None


def test_the_command_prints_one_object_and_refuses_two_sources(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("{name: r, preset: flan-t5-base, collections: [{path: x}]}")
    runner = CliRunner()
    done = runner.invoke(app, ["plan", str(path), "--hardware", "l4:2", "--json", "--set", "train.steps=5"])
    found = json.loads(done.stdout.strip().split("\n")[-1])
    assert done.exit_code == 0
    assert found["parameters"]["total"] == found["parameters"]["trained"] == 247_577_856
    assert found["work"]["steps"] == 5 and found["hardware"][0]["devices"] == 2
    assert found["hardware"][0]["peak_share_from"] == "assumed" and found["measured"] is None
    shown = runner.invoke(app, ["plan", "--preset", "flan-t5-base"])
    assert "247,577,856 parameters" in shown.stdout and "extrapolated" in shown.stdout
    assert runner.invoke(app, ["plan", str(path), "--preset", "flan-t5-base"]).exit_code == 2
    assert runner.invoke(app, ["plan"]).exit_code == 2
    assert runner.invoke(app, ["plan", "--preset", "nothing"]).exit_code == 2

"""The Flan 2022 presets against the published rates, and mixtures weighted by language."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from flantune.errors import RecipeError
from flantune.mixtures import Mixture
from flantune.recipe import SETTINGS, MixturePart, MixtureSpec, WeightedFormat, parse_recipe
from flantune.tasks.flan import public_probabilities, public_rates
from flantune.types import Example, Format, Task

from .worlds import make_mixture, make_task, make_templates, own_templates

PAPER_NAME = {"flan2021": "muffin", "t0": "t0_sf", "niv2": "niv2", "cot": "cot", "dialog": "dialog"}
PUBLIC = MixtureSpec(preset="flan2022-public")


def reasoned(name: str, mixture: str) -> Task:
    wordings = make_templates(name, kind="rationale") + make_templates(f"{name}/back", kind="inverted")
    return make_task(name, mixture, own_templates=wordings, has_rationale=True)


def with_inverted(name: str, mixture: str, inverted: int, direct: int = 4) -> Task:
    back = make_templates(f"{name}/back", count=inverted, kind="inverted")
    return make_task(name, mixture, own_templates=make_templates(name, count=direct) + back)


def natural(name: str) -> Task:
    stored = Example(task=name, row=-1, id="", fields={"input": "x"}, targets=("y",), rationale="so")
    return make_task(name, "niv2", demonstrations=(stored,))


def test_old_names_of_the_papers_presets_are_accepted() -> None:
    assert MixtureSpec(preset="paper-a").preset == "flan2022-paper-a"  # type: ignore[arg-type]
    assert MixtureSpec(preset="paper-b") == MixtureSpec(preset="flan2022-paper-b")  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="flan2022-public"):
        MixtureSpec(preset="paper-c")  # type: ignore[arg-type]


@pytest.mark.parametrize(("counts_of", "compared"), [("zs_opt", ("zs_opt", "zs_noopt")), ("fs_noopt", ("fs_noopt",))])
def test_the_preset_over_the_public_collections_sizes_draws_the_published_rates(
    spec_dir: Path, counts_of: str, compared: tuple[str, ...]
) -> None:
    # A task has one size here and a count of cases per variant there (whole batches of its templates), so the
    # published rates are met setting by setting, with that setting's counts for the sizes.
    tasks: dict[str, Task] = {}
    sizes: dict[str, int] = {}
    for r in public_rates():
        if r.setting not in (counts_of, "zs_opt") or r.inverted:
            continue
        mixture = PAPER_NAME[r.submixture]
        name = f"{mixture}/{r.task}"
        made = {"cot": reasoned(name, "cot"), "niv2": natural(name), "dialog": with_inverted(name, "dialog", 2)}
        tasks[name] = made.get(mixture) or make_task(name, mixture)
        if r.setting == counts_of or name not in sizes:
            sizes[name] = r.cases
    ours: dict[tuple[str, str, bool], float] = defaultdict(float)
    for leaf in Mixture(PUBLIC, 0, tasks, sizes, own_templates).leaves:
        _, setting, *component = leaf.path.split("/")
        ours[leaf.task, setting, "inverted" in component] += leaf.probability
    published: dict[tuple[str, str, bool], float] = defaultdict(float)
    with (spec_dir / "public_mixture_rates.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            name = f"{PAPER_NAME[row['submixture']]}/{row['task'].replace('_input_inversion', '')}"
            published[name, row["setting"], row["component"].endswith("-II")] += float(row["prob_in_flan2022"])
    assert ours.keys() == published.keys()
    assert sum(ours.values()) == pytest.approx(1, abs=1e-12)
    for (task, setting, inverted), share in published.items():
        if setting in compared:
            # As printed, with seven digits.
            assert ours[task, setting, inverted] == pytest.approx(share, rel=5e-7), (task, setting)
        if setting.startswith("fs_"):
            same = ours[task, setting.replace("fs_", "zs_"), inverted]
            assert ours[task, setting, inverted] == pytest.approx(same, rel=1e-9)


def test_the_facts_give_every_published_probability(spec_dir: Path) -> None:
    with (spec_dir / "public_mixture_rates.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    printed = {(r["component"], r["setting"], r["few_shot_variant"], r["task"]): r["prob_in_flan2022"] for r in rows}
    ours = {
        (r.component, r.setting, r.variant, r.task): float(p)
        for r, p in zip(public_rates(), public_probabilities(), strict=True)
    }
    assert len(rows) == len(printed) == 1389
    assert {key: f"{share:.6e}" for key, share in ours.items()} == printed
    # Seven digits are printed: half a unit of the last is more than 1e-9 for the one share above 0.01.
    assert all(
        abs(ours[key] - float(text)) <= max(1e-9, 10 ** (int(text[-3:]) - 6) / 2) for key, text in printed.items()
    )
    assert sum(public_probabilities()) == 1


def small_world() -> tuple[dict[str, Task], dict[str, int]]:
    tasks = {
        "muffin/plain": make_task("muffin/plain", "muffin"),
        "muffin/both": with_inverted("muffin/both", "muffin", inverted=1, direct=4),
        "muffin/talk": replace(with_inverted("muffin/talk", "muffin", 2), source="dialog"),
        "muffin/code": make_task("muffin/code", "muffin", source="code"),
        "t0/x": make_task("t0/x", "t0_sf"),
        "niv2/a": natural("niv2/a"),
        "niv2/b": natural("niv2/b"),
        "cot/c": reasoned("cot/c", "cot"),
        "mine/m": make_task("mine/m", "mine"),
    }
    sizes = dict.fromkeys(tasks, 100) | {"muffin/both": 90_000, "niv2/b": 90_000}
    return tasks, sizes


def test_the_public_preset_nests_sub_mixtures_settings_and_components() -> None:
    tasks, sizes = small_world()
    mixture = Mixture(PUBLIC, 0, tasks, sizes, own_templates)
    assert mixture.mixture_shares() == pytest.approx(
        {"flan2021": 0.40, "t0": 0.32, "niv2": 0.20, "cot": 0.05, "dialog": 0.03}
    )
    shares = mixture.shares()
    assert shares["muffin/both"] / shares["muffin/plain"] == pytest.approx(300)  # clipped at 30,000
    assert shares["niv2/b"] / shares["niv2/a"] == pytest.approx(900)  # one task there: its cap touches nothing
    settings: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    formats: dict[str, dict[Format, float]] = defaultdict(lambda: defaultdict(float))
    for leaf in mixture.leaves:
        settings[leaf.mixture][leaf.path.split("/")[1]] += leaf.probability
        for format, share in leaf.formats:
            formats[leaf.task][format] += leaf.probability * share
    assert settings["t0"] == pytest.approx(dict.fromkeys(("zs_opt", "fs_opt", "zs_noopt", "fs_noopt"), 0.08))
    assert settings["niv2"] == pytest.approx({"zs_opt": 0.1, "fs_opt": 0.1})
    both_variants = {SETTINGS[n]: 0.04 for n in ("fs_opt", "fs_opt_single")}
    assert formats["t0/x"] == pytest.approx(
        {SETTINGS[n]: 0.08 for n in ("zs_opt", "zs_noopt", "fs_noopt")} | both_variants
    )
    natural_shots = formats["niv2/a"]
    assert natural_shots[SETTINGS["niv2_inline"]] == natural_shots[SETTINGS["niv2_x_shot"]]
    for task in ("cot/c", "muffin/talk"):
        inverted = sum(p for f, p in formats[task].items() if f.inverted)
        assert inverted / sum(formats[task].values()) == pytest.approx(0.3 / 1.3), task
    among_the_ten = sum(p for f, p in formats["muffin/both"].items() if f.inverted)
    assert among_the_ten / sum(formats["muffin/both"].values()) == pytest.approx(1 / 5)  # one of five templates
    assert not any(f.inverted for f in formats["muffin/plain"])
    assert dict(mixture.left_out).keys() == {"muffin/code", "mine/m"}


def test_templates_inside_the_ten_are_drawn_alike() -> None:
    tasks = {"muffin/both": with_inverted("muffin/both", "muffin", inverted=2, direct=8)}
    spec = MixtureSpec(formats=(WeightedFormat(setting="zs_opt", inversion="templates"),))
    drawn = Counter(
        d.template.name for d in Mixture(spec, 0, tasks, {"muffin/both": 500}, own_templates).draws(0, 10_000)
    )
    assert len(drawn) == 10 and all(count / 10_000 == pytest.approx(0.1, abs=0.012) for count in drawn.values())


def test_an_inverted_twin_has_the_rate_it_is_given_and_tasks_without_go_on_forward() -> None:
    tasks = {"m/both": with_inverted("m/both", "m", 3), "m/plain": make_task("m/plain", "m")}
    spec = MixtureSpec(formats=(WeightedFormat(inversion=0.3), WeightedFormat(setting="fs_opt_single", weight=2)))
    by_task = {
        leaf.task: dict(leaf.formats)
        for leaf in Mixture(spec, 0, tasks, dict.fromkeys(tasks, 10), own_templates).leaves
    }
    assert by_task["m/both"] == pytest.approx(
        {Format(): 1 / 3.3, Format(inverted=True): 0.3 / 3.3, SETTINGS["fs_opt_single"]: 2 / 3.3}
    )
    assert by_task["m/plain"] == pytest.approx({Format(): 1 / 3, SETTINGS["fs_opt_single"]: 2 / 3})
    with pytest.raises(ValidationError, match="not both"):
        WeightedFormat(inverted=True, inversion=0.3)


@pytest.mark.parametrize("absent", [("dialog", "muffin"), ("cot",), ("niv2", "t0_sf")])
def test_the_public_preset_renormalises_over_what_is_present(absent: tuple[str, ...]) -> None:
    tasks, sizes = small_world()
    tasks = {n: t for n, t in tasks.items() if t.mixture not in absent}
    whole = {"flan2021": 0.40, "t0": 0.32, "niv2": 0.20, "cot": 0.05, "dialog": 0.03}
    left = {s: w for s, w in whole.items() if PAPER_NAME[s] not in absent}
    got = Mixture(PUBLIC, 0, tasks, sizes, own_templates).mixture_shares()
    assert got == pytest.approx({s: w / sum(left.values()) for s, w in left.items()})


def test_the_presets_say_what_they_cannot_take() -> None:
    with pytest.raises(RecipeError, match="'flan2022-public': no task of muffin"):
        make_mixture({"mine/1": 5}, PUBLIC)
    with pytest.raises(RecipeError, match="has its own formats"):
        make_mixture({"muffin/1": 5}, MixtureSpec(preset="flan2022-public", formats=(WeightedFormat(),)))
    with pytest.raises(RecipeError, match="has its own caps"):
        make_mixture({"muffin/1": 5}, MixtureSpec(preset="flan2022-public", cap=3))
    paper = make_mixture({"muffin/1": 5, "mine/1": 5}, MixtureSpec(preset="flan2022-paper-b"))
    assert paper.left_out == (("mine/1", "the preset has no mixture 'mine'"),)


# --- languages ---


def bilingual(name: str) -> Task:
    chinese = tuple(replace(t, language="zh", name=t.name.replace("direct", "zh")) for t in make_templates(name))
    return make_task(name, own_templates=make_templates(name) + chinese)


LANGUAGES = {"en": 0.7, "zh": 0.3}


def test_wording_languages_have_the_shares_asked_over_10000_draws() -> None:
    names = ("a/1", "a/2", "b/1")
    tasks = {name: bilingual(name) for name in names}
    mixture = Mixture(MixtureSpec(languages=LANGUAGES), 3, tasks, {"a/1": 50, "a/2": 500, "b/1": 5000}, own_templates)
    drawn = Counter((d.task, d.template.language) for d in mixture.draws(0, 10_000))
    assert sum(n for (_, code), n in drawn.items() if code == "zh") / 10_000 == pytest.approx(0.3, abs=0.01)
    assert drawn["b/1", "zh"] / (drawn["b/1", "zh"] + drawn["b/1", "en"]) == pytest.approx(0.3, abs=0.01)
    assert all(d.template.language == d.format.language for d in mixture.draws(0, 500))


def test_a_task_without_the_wording_is_named_and_a_part_may_ask_for_its_own() -> None:
    tasks = {"a/1": bilingual("a/1"), "b/1": make_task("b/1")}
    sizes = dict.fromkeys(tasks, 10)
    with pytest.raises(RecipeError, match="task 'b/1' has no wording in 'zh'"):
        Mixture(MixtureSpec(languages=LANGUAGES), 0, tasks, sizes, own_templates)
    parts = (MixturePart(name="a", mixture="a", languages=LANGUAGES), MixturePart(name="b", mixture="b"))
    drawn = Counter((d.task, d.template.language) for d in Mixture(
        MixtureSpec(parts=parts), 0, tasks, sizes, own_templates).draws(0, 10_000))  # fmt: skip
    assert drawn["a/1", "zh"] / 5000 == pytest.approx(0.3, abs=0.01) and drawn["b/1", "en"] == pytest.approx(
        5000, abs=20
    )
    assert MixtureSpec(parts=parts).wording == ("en", "zh") and MixtureSpec(language="zh").wording == "zh"


def test_task_languages_have_the_shares_asked_over_10000_draws_in_every_kind_of_mixture() -> None:
    tasks = {
        "a/en": make_task("a/en", "a"),
        "a/zh": make_task("a/zh", "a", language="Chinese"),
        "b/zh": make_task("b/zh", "b", language="zh-CN"),
        "b/fr": make_task("b/fr", "b", language="fr"),
        "muffin/de": make_task("muffin/de", "muffin", language="de"),
    }
    sizes = {"a/en": 9000, "a/zh": 10, "b/zh": 30, "b/fr": 70, "muffin/de": 30}
    asked = {"en": 0.5, "zh": 0.3, "*": 0.2}
    parts = (MixturePart(name="p", tasks=("a/*",)), MixturePart(name="q", weight=2, tasks=("b/*", "muffin/*")))
    for spec in (
        MixtureSpec(task_languages=asked),
        MixtureSpec(preset="uniform", task_languages=asked),
        MixtureSpec(parts=parts, task_languages=asked),
    ):
        mixture = Mixture(spec, 0, tasks, sizes, own_templates)
        drawn = Counter(d.task for d in mixture.draws(0, 10_000))
        assert drawn["a/en"] == pytest.approx(5000, abs=20)
        assert drawn["a/zh"] + drawn["b/zh"] == pytest.approx(3000, abs=20)
        assert drawn["b/fr"] + drawn["muffin/de"] == pytest.approx(2000, abs=20)
        assert {leaf.mixture for leaf in mixture.leaves} <= {"a", "b", "muffin", "p", "q"}
    with pytest.raises(RecipeError, match=r"no task in language 'ja'.*de, en, fr, zh"):
        Mixture(MixtureSpec(task_languages={"ja": 1.0}), 0, tasks, sizes, own_templates)


def test_a_part_may_take_only_the_tasks_of_one_language() -> None:
    tasks = {"a/en": make_task("a/en"), "a/zh": make_task("a/zh", language="zh")}
    parts = (MixturePart(name="chinese", tasks=("*",), language="zh"), MixturePart(name="all", tasks=("*",), weight=3))
    shares = Mixture(MixtureSpec(parts=parts), 0, tasks, dict.fromkeys(tasks, 10), own_templates).shares()
    assert shares == pytest.approx({"a/en": 0.375, "a/zh": 0.625})
    with pytest.raises(RecipeError, match="part 'p': nothing to draw from: 2 in another language"):
        none = MixtureSpec(parts=(MixturePart(name="p", tasks=("*",), language="ja"),))
        Mixture(none, 0, tasks, dict.fromkeys(tasks, 10), own_templates)


def test_a_recipe_states_all_of_this() -> None:
    raw = {
        "name": "x",
        "collections": [{"path": "here"}],
        "mixture": {
            "preset": "paper-b",
            "languages": {"en": 0.7, "zh": 0.3},
            "task_languages": {"en": 1, "*": 1},
            "formats": [
                {"setting": "fs_opt_single", "inversion": 0.3},
                {"setting": "niv2_inline"},
                {"setting": "niv2_x_shot", "delimiters": "random"},
                {"setting": "zs_opt", "inversion": "templates"},
            ],
        },
    }
    spec = parse_recipe(raw).mixture
    assert spec.preset == "flan2022-paper-b" and spec.wording == ("en", "zh")
    with pytest.raises(RecipeError, match="'language' or 'languages'"):
        parse_recipe({**raw, "mixture": {"language": "zh", "languages": {"en": 1}}})
    with pytest.raises(RecipeError, match="languages"):
        parse_recipe({**raw, "mixture": {"languages": {"en": 0}}})

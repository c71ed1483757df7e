"""C-Eval (Huang et al. 2023): dev/, val/, test/ with SUBJECT_SPLIT.csv: id, question, A to D, answer, explanation; or
the hub's SUBJECT/SPLIT-*.parquet (ceval/ceval-exam) with the same columns.

Prompts are the publisher's. The explanations of the five dev rows are the chain-of-thought exemplars; that query
ends in the "1." that every explanation begins with. The test split's answers are not public.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flantune.errors import DataError
from flantune.evals.benchmark import (
    Ability,
    Extraction,
    FileBenchmark,
    Part,
    Question,
    Reading,
    Shot,
    TaskScore,
    answer_key,
    mean_of,
    micro,
)
from flantune.evals.extract import UNREAD, letter, told_verbatim
from flantune.evals.files import existing, hub_files, read_parquet, read_table
from flantune.evals.mmlu import LETTERS, subjects
from flantune.types import Item

THINK = "让我们一步一步思考，"
STRICT = "答案是"
PHRASE = r"(?:正确)?答案(?:应该?)?(?:是|为|选)?\s*[:：]?|故选|应选|answer\s+is|answer\s*:"

# The publisher's subject_mapping.json: groups, subjects and their Chinese names.
SUBJECTS: Mapping[str, Mapping[str, str]] = {
    "stem": {
        "computer_network": "计算机网络",
        "operating_system": "操作系统",
        "computer_architecture": "计算机组成",
        "college_programming": "大学编程",
        "college_physics": "大学物理",
        "college_chemistry": "大学化学",
        "advanced_mathematics": "高等数学",
        "probability_and_statistics": "概率统计",
        "discrete_mathematics": "离散数学",
        "electrical_engineer": "注册电气工程师",
        "metrology_engineer": "注册计量师",
        "high_school_mathematics": "高中数学",
        "high_school_physics": "高中物理",
        "high_school_chemistry": "高中化学",
        "high_school_biology": "高中生物",
        "middle_school_mathematics": "初中数学",
        "middle_school_biology": "初中生物",
        "middle_school_physics": "初中物理",
        "middle_school_chemistry": "初中化学",
        "veterinary_medicine": "兽医学",
    },
    "social_science": {
        "college_economics": "大学经济学",
        "business_administration": "工商管理",
        "marxism": "马克思主义基本原理",
        "mao_zedong_thought": "毛泽东思想和中国特色社会主义理论体系概论",
        "education_science": "教育学",
        "teacher_qualification": "教师资格",
        "high_school_politics": "高中政治",
        "high_school_geography": "高中地理",
        "middle_school_politics": "初中政治",
        "middle_school_geography": "初中地理",
    },
    "humanities": {
        "modern_chinese_history": "近代史纲要",
        "ideological_and_moral_cultivation": "思想道德修养与法律基础",
        "logic": "逻辑学",
        "law": "法学",
        "chinese_language_and_literature": "中国语言文学",
        "art_studies": "艺术学",
        "professional_tour_guide": "导游资格",
        "legal_professional": "法律职业资格",
        "high_school_chinese": "高中语文",
        "high_school_history": "高中历史",
        "middle_school_history": "初中历史",
    },
    "other": {
        "civil_servant": "公务员",
        "sports_science": "体育学",
        "plant_protection": "植物保护",
        "basic_medicine": "基础医学",
        "clinical_medicine": "临床医学",
        "urban_and_rural_planner": "注册城乡规划师",
        "accountant": "注册会计师",
        "fire_engineer": "注册消防工程师",
        "environmental_impact_assessment_engineer": "环境影响评价工程师",
        "tax_accountant": "税务师",
        "physician": "医师资格",
    },
}
NAMES = {subject: name for group in SUBJECTS.values() for subject, name in group.items()}
HARD = (
    "advanced_mathematics",
    "college_chemistry",
    "college_physics",
    "discrete_mathematics",
    "high_school_chemistry",
    "high_school_mathematics",
    "high_school_physics",
    "probability_and_statistics",
)


@dataclass(frozen=True)
class CEval(FileBenchmark):
    name: str = "ceval"
    folder: str = "ceval"
    modes: tuple[str, ...] = ("direct", "cot")
    default_split: str = "val"
    default_shots: Mapping[str, int] = field(default_factory=lambda: {"direct": 5, "cot": 5})
    most_shots: int = 5
    ability: Ability = "knowledge"
    datasets: tuple[str, ...] = ("ceval", "c_eval")
    groups: Mapping[str, tuple[str, ...]] = field(
        default_factory=lambda: {**{g: tuple(s) for g, s in SUBJECTS.items()}, "hard_8": HARD}
    )

    def parts(self, path: Path, mode: str, split: str, *, exemplars: bool = True) -> Iterator[Part]:
        columns = ("question", *LETTERS, "answer")
        for subject in subjects(path, split):
            if subject not in NAMES:
                raise DataError(str(path), field="subject", expected="one of C-Eval's 52", got=subject)
            wanted = (*columns, "explanation") if mode == "cot" else columns
            shown = [row for _, row in _rows(path, "dev", subject, wanted)] if exemplars else []
            yield Part(
                task=subject,
                id=f"{split}/{subject}",
                head=f"以下是中国关于{NAMES[subject]}考试的单项选择题，请选出其中的正确答案。",
                shots=[_shot(row, mode) for row in shown],
                questions=[
                    Question(
                        text=row["question"],
                        asked=_asked(row, mode),
                        references=(answer_key(row["answer"], LETTERS, where),),
                        choices=tuple(row[name] for name in LETTERS),
                        options=LETTERS if mode == "direct" else None,
                    )
                    for where, row in _rows(path, split, subject, columns)
                ],
                key=("ceval", split, subject),
                max_new_tokens=512,
                stop=("\n\n",) if mode == "cot" else (),
            )

    def trigger_words(self, part: Part, asked: str, trigger: str) -> str:
        return f"{asked.removesuffix(f'{THINK}{chr(10)}1.')}{trigger}"

    def extract(self, item: Item, output: str, reading: Reading = "default") -> Extraction:
        if reading == "strict" and item.mode == "cot":
            found = told_verbatim(output, STRICT)
            answer = (found.answer or "").removesuffix("。")
            return Extraction(answer, found.rule) if answer else Extraction(None, UNREAD)
        return letter(output, LETTERS, PHRASE, loose=reading == "loose")

    def averages(self, tasks: Mapping[str, TaskScore]) -> Mapping[str, float | None]:
        whole = set(NAMES) == set(tasks)
        return {
            "macro_52": mean_of(tuple(NAMES), tasks) if whole else None,
            "micro": micro(tasks) if whole else None,
            **super().averages(tasks),
        }


def _rows(path: Path, split: str, subject: str, columns: tuple[str, ...]) -> list[tuple[str, Mapping[str, str]]]:
    """(place, row) from either layout."""
    csv = path / split / f"{subject}_{split}.csv"
    files = hub_files(path / subject, split)
    if csv.exists() or not files:
        what = "exemplars" if split == "dev" else "questions"
        return [(f"{csv}:row {n}", row) for n, row in enumerate(read_table(existing(csv, what), columns), start=1)]
    return [(where, {c: str(row[c] or "") for c in columns}) for where, row in read_parquet(files, columns)]


def _block(row: Mapping[str, str]) -> str:
    return "\n".join([row["question"], *(f"{name}. {row[name]}" for name in LETTERS)])


def _asked(row: Mapping[str, str], mode: str) -> str:
    return f"{_block(row)}\n答案：" + (f"{THINK}\n1." if mode == "cot" else "")


def _shot(row: Mapping[str, str], mode: str) -> Shot:
    if mode == "direct":
        return Shot(_asked(row, mode), row["answer"])
    return Shot(f"{_block(row)}\n答案：{THINK}\n", f"{row['explanation']}\n所以{STRICT}{row['answer']}。")

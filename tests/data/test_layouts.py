"""Public sets: small files of the documented layouts, through the table of columns.

No network was used, and no original data: the layouts are what the sources below document.
"""

import json

import pyarrow as pa
import pyarrow.parquet as pq

from offaxis.data.columns import LAYOUTS
from offaxis.data.files import FileRecords


def record_of(tmp_path, schema, row, layout):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist([row], schema=schema), path)
    records = FileRecords([str(path)], LAYOUTS[layout], evaluation_files=[str(path)])
    return records.training(seed=0, index=0)


# "features: data_source: string, prompt: list of {content: string, role: string}, ability: string,
# reward_model: struct {ground_truth: string, style: string}, extra_info: struct {index: string}":
# dataset_info of the re-uploads huggingface.co/datasets/LuyiCui/DAPO-Math-17k and
# koajoel/DAPO-Math-17k-dedup (17,917 rows; weijiezz/DAPO-Math-17k-split counts 1,791,700, each a
# hundred times). The original is read as `datapoint['prompt'][0]['content']` and
# `datapoint['reward_model']['ground_truth']` by dataset/dapo_math.py of
# github.com/elliot-zzh/from-transparent-to-opaque.
DAPO = pa.schema(
    [
        ("data_source", pa.string()),
        ("prompt", pa.list_(pa.struct([("content", pa.string()), ("role", pa.string())]))),
        ("ability", pa.string()),
        ("reward_model", pa.struct([("ground_truth", pa.string()), ("style", pa.string())])),
        ("extra_info", pa.struct([("index", pa.string())])),
    ]
)


def test_dapo_math_17k(tmp_path):
    turns = [{"content": "Solve: 1 + 33.", "role": "user"}]
    row = {
        "data_source": "math_dapo",
        "prompt": turns,
        "ability": "MATH",
        "reward_model": {"ground_truth": "34", "style": "rule-lighteval/MATH_v2"},
        "extra_info": {"index": "9a9b6eb4-a1cb-49d1-8c1e-62eaf2f74079"},
    }
    found = record_of(tmp_path, DAPO, row, "dapo-math-17k")
    assert found[:3] == (turns, "", "34")


# "messages: list of {content: string, role: string}, id: string, source: string": dataset_info of
# huggingface.co/datasets/geodesic-research/Dolci-Think-Precise-IF, made of Dolci-Think; "Each row's
# messages conversation is rendered with the instruct chat template": the card of
# huggingface.co/datasets/yangwang92/Dolci-Think-SFT-7B-q35instruct on allenai/Dolci-Think-SFT-7B.
# A leading <think>...</think> stands in the content of the assistant's turn.
DOLCI = pa.schema(
    [
        ("messages", pa.list_(pa.struct([("content", pa.string()), ("role", pa.string())]))),
        ("id", pa.string()),
        ("source", pa.string()),
    ]
)


def test_dolci_think_sft(tmp_path):
    turns = [
        {"content": "How much is 1 + 33?", "role": "user"},
        {"content": "<think>Easy.</think>34", "role": "assistant"},
    ]
    row = {"messages": turns, "id": "x_1", "source": "OpenThoughts3"}
    found = record_of(tmp_path, DOLCI, row, "dolci-think-sft")
    assert found[:3] == (turns[:1], "<think>Easy.</think>34", "")


# "problem: string, solutions: list of string, tests: string, starter_code: string, metadata:
# string": the columns that huggingface.co/datasets/future7/rllm_code_data keeps of DeepCoder.
# `example["problem"]`, `example.get("starter_code", "")`, `json.loads(example["tests"])`: rLLM's
# prepare_deepcoder_data.py on agentica-org/DeepCoder-Preview-Dataset. The inside of `tests`:
# [{"type": "stdin_stdout", "input", "output"}] in primeintellect (NeMo-RL's deepcoder_preview.py),
# {"inputs", "outputs"} in taco and [{"testtype", "input", "output"}] in lcbv5, whose `metadata`
# holds `func_name` (code_env.py of the Tinker cookbook).
def test_deepcoder(tmp_path):
    schema = pa.schema(
        [
            ("problem", pa.string()),
            ("solutions", pa.list_(pa.string())),
            ("tests", pa.string()),
            ("starter_code", pa.string()),
            ("metadata", pa.struct([("func_name", pa.string())])),
        ]
    )
    tests = [{"input": "1", "output": "2", "testtype": "functional"}]
    row = {
        "problem": "Add one.",
        "solutions": ["def f(x): return x + 1"],
        "tests": json.dumps(tests),
        "starter_code": "def f(x):",
        "metadata": {"func_name": "f"},
    }
    found = record_of(tmp_path, schema, row, "deepcoder")
    assert found.prompt == "Add one.\n\ndef f(x):"
    reference = json.loads(found.reference)
    assert json.loads(reference["tests"]) == tests
    assert reference["metadata"] == {"func_name": "f"}


def test_deepcoder_without_starter_code(tmp_path):
    schema = pa.schema([("problem", pa.string()), ("tests", pa.string())])
    row = {"problem": "Echo.", "tests": '{"inputs": ["1"], "outputs": ["1"]}'}
    found = record_of(tmp_path, schema, row, "deepcoder")
    assert found.prompt == "Echo."
    assert json.loads(json.loads(found.reference)["tests"]) == {"inputs": ["1"], "outputs": ["1"]}

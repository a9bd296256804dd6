"""Loads every format of an exported folder with pandas and datasets, and checks columns, counts and content."""

import json
import sys
from pathlib import Path

import pandas
from datasets import load_dataset

out = Path(sys.argv[1])
rows = [json.loads(line) for line in (out / "dataset.jsonl").read_text(encoding="utf-8").splitlines()]
by_id = {row["id"]: row for row in rows}
splits = ["train", "validation", "test"] if (out / "jsonl").is_dir() else ["train"]
columns = list(rows[0])
expected = {
    "jsonl": columns,
    "parquet": columns,
    "alpaca": ["instruction", "input", "output"],
    "sharegpt": ["id", "conversations"],
    "openai": ["messages"],
    "squad": ["id", "title", "context", "question", "answers", "is_impossible"],
}


def same(row, loaded):
    """Whether a loaded row says what dataset.jsonl does."""
    quotes = [dict(quote) for quote in loaded["citations"]]
    assert quotes == row["citations"], (quotes, row["citations"])
    scores = loaded["scores"]
    assert (dict(scores) if scores is not None else None) == row["scores"]
    checks = loaded["checks"]
    if not isinstance(checks, dict):
        texts = {name: value["value"] for name, value in row["checks"].items()}
        checks = {check["name"]: (check["pass"], check["value"]) for check in checks}
        assert list(checks) == sorted(row["checks"])
        for name, (passed, value) in checks.items():
            assert passed == row["checks"][name]["pass"]
            want = texts[name]
            assert value == want if isinstance(want, str) else float(value) == want, (name, value, want)
    assert dict(loaded["usage"]) == row["usage"]
    for field in ["question", "answer", "context", "source_page", "model", "judge_model", "run_id"]:
        assert loaded[field] == row[field], field


def check(name, dataset, columns):
    assert sorted(dataset) == sorted(splits), (name, list(dataset))
    total = 0
    for split in dataset:
        part = dataset[split]
        assert part.column_names == columns, (name, part.column_names)
        total += part.num_rows
        if name in ("jsonl", "parquet"):
            for loaded in part:
                same(by_id[loaded["id"]], loaded)
        if name == "squad":
            for loaded in part:
                for text, start in zip(loaded["answers"]["text"], loaded["answers"]["answer_start"]):
                    assert loaded["context"][start : start + len(text)] == text
    assert total == len(rows), (name, total, len(rows))
    print(f"{name}: {total} rows in {', '.join(dataset)}")


# By the card's configurations, as from the hub.
for name, names in expected.items():
    # All configurations of one card are read by one reader, so Parquet has its folder.
    loaded = load_dataset(str(out / "parquet")) if name == "parquet" else load_dataset(str(out), name)
    check(name, loaded, names)
# The default configuration.
assert load_dataset(str(out))["train"].column_names == columns
# By file, without the card.
for name in ["alpaca", "sharegpt", "openai", "squad"]:
    files = {split: str(out / name / f"{split}.jsonl") for split in splits}
    assert sum(load_dataset("json", data_files=files).num_rows.values()) == len(rows)

# pandas reads Parquet and JSON Lines.
total = 0
for split in splits:
    frame = pandas.read_parquet(out / "parquet" / f"{split}.parquet")
    assert list(frame.columns) == columns, list(frame.columns)
    assert frame["source_page"].dtype == "int32"
    for loaded in frame.to_dict("records"):
        same(by_id[loaded["id"]], loaded)
    total += len(frame)
assert total == len(rows)
whole = pandas.read_parquet(out / "parquet")
assert len(whole) == len(rows)
for name, names in expected.items():
    if name == "parquet":
        continue
    for split in splits:
        path = out / name / f"{split}.jsonl"
        if name == "jsonl" and splits == ["train"]:
            path = out / "dataset.jsonl"
        assert list(pandas.read_json(path, lines=True).columns) == names, name
print(f"pandas: {total} rows")

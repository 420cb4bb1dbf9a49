"""Foreign tables: read with care, refused in one line; recipes hold what a table needs."""

import gzip
import json
from pathlib import Path

import pandas as pd
import pytest

from precisionlaws import tables
from precisionlaws.config import ConfigError
from precisionlaws.store import load

ROWS = {"N": [1e8, 2e8, 3e8], "D": [1e9, 2e9, 3e9], "loss": [3.0, 2.9, 2.8]}


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def as_json(frame: pd.DataFrame) -> str:
    return json.dumps(frame.to_dict("records"))


def as_lines(frame: pd.DataFrame) -> str:
    return "\n".join(json.dumps(row) for row in frame.to_dict("records")) + "\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", lambda f: f.to_csv(index=False)),
        ("a.csv", lambda f: "\ufeff" + f.to_csv(index=False)),
        ("a.csv", lambda f: f.to_csv(index=False).replace(",", " , ")),
        ("a.csv", lambda f: f.to_csv(index=False).replace("\n", "\r\n") + "\r\n"),
        ("a.csv.gz", lambda f: gzip.compress(f.to_csv(index=False).encode())),
        ("semicolons.csv", lambda f: f.to_csv(index=False, sep=";")),
        ("a.tsv", lambda f: f.to_csv(index=False, sep="\t")),
        ("a.json", as_json),
        ("a.jsonl", as_lines),
    ],
)
def test_the_same_table_in_many_files(tmp_path: Path, name: str, content) -> None:
    frame = load(written(tmp_path / name, content(pd.DataFrame(ROWS))))
    assert {c: frame[c].tolist() for c in ROWS} == ROWS


def test_groups_of_records_become_a_column(tmp_path: Path) -> None:
    text = json.dumps({"base": [{"N": 1, "more": {"lr": 0.1}}], "nvfp4": [{"N": 2}, {"N": 3}]})
    frame = tables.read(written(tmp_path / "a.json", text))
    assert frame["group"].tolist() == ["base", "nvfp4", "nvfp4"]
    assert frame["more.lr"].tolist()[0] == 0.1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "N,D,loss\n1,2,3\n1,2,high\n", "'loss' must hold numbers, got 'high' in row 1 (line 3)"),
        ("a.csv", "N,D,loss\n1,2,3\n\n\n1,x y,3\n", "'D' must hold numbers, got 'x y' in row 3 (line 5)"),
        ("a.csv", 'N,D,loss\n"1,000",2,3\n', "'N' must hold numbers, got '1,000' in row 0 (line 2)"),
        ("a.csv", "N,D,loss\n1,2,True\n", "'loss' must hold numbers, got True in row 0"),
        ("a.csv", f"N,D,loss\n1,2,{'9x' * 1000}\n", f"got '{'9x' * 19}9… in row 0"),
        ("a.csv", "N,D,loss\n1,2,\x1b[31mred\n", r"got '\x1b[31mred' in row 0"),
        ("a.csv", "N,D,loss,loss\n1,2,3,4\n", "two columns are called 'loss'"),
        ("a.csv", "N, loss,loss \n1,2,3\n", "two columns are called 'loss'"),
        ("a.csv", "N,D,loss\n1,2,3\n1,2,3,4\n", "Expected 3 fields in line 3, saw 4"),
        ("a.csv", b"N,D,loss\n\xff\xfe,2,3\n", "cannot be read as a table: byte 0xff is not UTF-8 text"),
        ("a.csv", "", "cannot be read as a table: No columns"),
        ("a.json", "[1, 2]", "it holds no list of objects"),
        ("a.json", "{}", "it holds no list of objects"),
        ("a.json", "[" * 10, "cannot be read as a table: Expecting value"),
        ("a.jsonl", '{"N": 1}\nN\n', "cannot be read as a table: Expecting value"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_said_in_one_line(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path / name, content))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_whole_numbers_beyond_64_bits_are_floats(tmp_path: Path) -> None:
    frame = load(written(tmp_path / "a.csv", "N,D,loss\n99999999999999999999999,2,3\n"))
    assert frame["N"].tolist() == [1e23]


def test_columns_may_be_computed(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "Model Size,C,nll\n1e8,6e17,3\n")
    frame = load(path, {"N": "Model Size", "D": "C / (6 * N)", "loss": "nll * 1"})
    assert frame[["N", "D", "loss"]].to_numpy().tolist() == [[1e8, 1e9, 3.0]]
    with pytest.raises(ConfigError, match="has no column 'tokens'; it has Model Size, C, nll"):
        load(path, {"D": "tokens"})
    with pytest.raises(ConfigError, match="no column 'size'"):
        load(path, {"D": "C / size"})


@pytest.mark.parametrize("name", tables.names())
def test_a_recipe_is_complete(name: str) -> None:
    known = tables.recipe(name)
    assert known.url.startswith("https://")
    assert known.licence
    assert known.source
    assert len(known.about) > 20
    assert all(len(bytes.fromhex(s)) == 32 for s in known.sha256)
    assert known.sha256
    assert {"N", "D", "loss"} <= set(known.columns)
    assert all(rule["why"] and ("where" in rule) != ("highest" in rule) for rule in known.leave_out)


def test_a_recipe_maps_leaves_out_and_doubts_the_file(tmp_path: Path) -> None:
    sizes = [1e8] * 8
    frame = pd.DataFrame(
        {"Model Size": sizes, "Training FLOP": [6e17] * 8, "loss": [3, 4, 9, 8, 7, 6, 5, 2]}
    )
    path = tmp_path / "points.csv"
    frame.to_csv(path, index=False)
    read = load(path, table="epoch")
    assert read["loss"].tolist() == [3, 4, 2]
    assert read["D"].tolist() == [1e9] * 3
    assert read.attrs["left_out"] == [
        ["among the 5 highest losses, which Epoch drops as outliers", 5]
    ]
    (said,) = read.attrs["warnings"]
    assert "193478df4e90f040016431996c45682659306840ecdadf83cfb9cd5ca0aa1b30" in said
    assert said.count(" sha256 is ") == 1


def test_a_file_that_is_not_there_says_where_it_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"does not exist; table epoch is at https://.*licence"):
        load(tmp_path / "none.csv", table="epoch")
    with pytest.raises(ConfigError, match="no table 'epok'; did you mean 'epoch'"):
        load(tmp_path, table="epok")

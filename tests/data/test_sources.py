"""Sources: the same bytes everywhere, never too few, never executed."""

from pathlib import Path

import pytest

from precisionlaws.config import ConfigError
from precisionlaws.data.base import held_out
from precisionlaws.data.package import Package, is_test
from precisionlaws.data.text import Text

SYMPY_1_14 = "55d5c7d782d2ea5f1f4136285489a028472545de8cea44fd287ca06d447fdf6e"


def text(path: Path | str, context: int = 16, eval_tokens: int = 64) -> Text:
    return Text(path=str(path), context=context, eval_tokens=eval_tokens)


def test_the_default_corpus_is_the_one_whose_numbers_are_published() -> None:
    from importlib.metadata import version

    corpus = Package(packages=("sympy",), context=128, eval_tokens=131072).corpus()
    assert len(corpus.train) > 15_000_000
    assert len(corpus.validation) > 131_072
    if version("sympy") == "1.14.0":
        assert corpus.fingerprint == SYMPY_1_14


def test_package_leaves_tests_out() -> None:
    assert is_test("core/tests/test_arit.py")
    assert is_test("test_x.py")
    assert is_test("conftest.py")
    assert not is_test("core/latest.py")


@pytest.mark.parametrize(
    ("packages", "message"),
    [
        (("sympi",), "no package 'sympi' is installed here"),
        (("os.path",), "top-level package names, got 'os.path'"),
        (("../x",), "top-level package names"),
        ((), "at least one installed package"),
        (
            ("this",),
            "no package 'this' is installed here",
        ),  # a module, and importing it would print
    ],
)
def test_packages_that_are_none(
    packages: tuple[str, ...], message: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(ConfigError, match=message):
        Package(packages=packages, context=128, eval_tokens=128).corpus()
    assert capsys.readouterr().out == ""


def test_a_file_is_cut_and_its_parts_do_not_overlap(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(bytes(range(200)) * 10)
    corpus = text(path).corpus()
    assert bytes(corpus.train) + bytes(corpus.validation) == path.read_bytes()
    assert len(corpus.validation) == 200


def test_a_folder_is_split_by_file_name(tmp_path: Path) -> None:
    for i in range(200):
        (tmp_path / f"{i}.txt").write_text(f"file {i} " * 10)
    corpus = text(tmp_path).corpus()
    held = [i for i in range(200) if held_out(f"{i}.txt", 0.1)]
    assert 5 < len(held) < 40
    assert all(f"file {i} ".encode() in bytes(corpus.validation) for i in held)
    (tmp_path / "0.txt").write_text("changed")
    assert text(tmp_path, 17, 68).corpus().fingerprint != corpus.fingerprint


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 79])
def test_too_little_text_is_an_error_with_numbers(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "few.txt"
    path.write_bytes(content)
    with pytest.raises(
        ConfigError, match=r"few.txt has \d+ (training|validation) tokens .bytes., fewer than the"
    ):
        text(path).corpus()


def test_a_missing_file_is_one_line() -> None:
    with pytest.raises(ConfigError, match="data.path=/no/such cannot be read: No such file"):
        text("/no/such").corpus()


def test_the_fingerprint_is_of_the_bytes_not_of_the_place(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"0123456789" * 100)
    (tmp_path / "c").write_bytes(b"0123456788" * 100)
    a, b, c = (text(tmp_path / n).fingerprint() for n in "abc")
    assert a == b != c


def test_eval_tokens_are_whole_sequences() -> None:
    with pytest.raises(ConfigError, match="eval_tokens must be a multiple of context=16, got 65"):
        text("x", 16, 65)

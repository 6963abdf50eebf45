"""Plain words: phrases that read as if translated, and British spellings, are kept out of code, README and docs."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PHRASES = (
    r"(?!there )\w+ is no (?!longer )[a-z]+",
    r"Say (whether|what|how|why|which|that)",
    r"(stands|stand) twice",
    r"anew",
    r"befell",
    r"whoever|whosever|somebody",
    r"(goes|go|went) on (from|with|under|to)",
    r"the same command goes on",
    r"(each|every|after|by|of) so many",
    r"of (its|his|her|their|your|our) own",
    r"(comes|came) out",
    r"became of",
    r"truth values?",
    r"(has|have) not(?= ?[.,;:])",
    r"(optimis|normalis|minimis|initialis|recognis|vectoris|colour|behaviour)\w*",
)
GAP = r'(?:\s|#|//|f?")+'  # between two words, also where a comment, a docstring or a string literal is wrapped
PATTERN = re.compile("|".join(rf"\b(?:{phrase.replace(' ', GAP)})\b" for phrase in PHRASES))
AS_GIVEN = ("docs/saliency-pruning.md",)


def faults(text: str) -> list[tuple[int, str]]:
    found = PATTERN.finditer(text)
    return [(text.count("\n", 0, match.start()) + 1, " ".join(match[0].split())) for match in found]


def test_code_and_documentation_use_plain_words():
    source = ROOT / "src" / "lth"
    paths = [
        *source.rglob("*.py"),
        *source.rglob("*.h"),
        *source.rglob("*.cc"),
        *(ROOT / "docs").glob("*.md"),
        ROOT / "README.md",
    ]
    names = sorted(str(path.relative_to(ROOT)) for path in paths)
    checked = [name for name in names if not any(name == skip or name.startswith(f"{skip}/") for skip in AS_GIVEN)]
    assert "src/lth/config.py" in checked
    wrong = [f"{name}:{line}: {words!r}" for name in checked for line, words in faults((ROOT / name).read_text())]
    assert not wrong, "rewrite in plain words:\n" + "\n".join(wrong)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("the file\nis no\n    mask", (1, "file is no mask")),
        ('f"in a folder of its "\nf"own"', (1, 'of its " f"own')),
        ("# made\n# anew", (2, "anew")),
    ],
)
def test_a_phrase_is_found_where_a_line_breaks(text, words):
    assert faults(text) == [words]
    assert not faults("there is no mask; it is no longer needed; has not finished")

from __future__ import annotations

import contextlib
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference import models
from inference.catalogue import Catalogue
from inference.live_catalogue import read_file
from inference.models_file import MAX_BYTES, BadCatalogueError, read
from inference.named_secrets import NamedSecrets
from support.catalogue import ONE_TARGET, catalogue, model, models_yaml, target

DOCS = Path(__file__).parents[3] / "docs"
EXAMPLES = sorted((DOCS / "models").glob("*.yaml"))
PRICE = "{input_usd: 1, output_usd: 2, as_of: 2026-11-01}"


def problems(text: str | bytes, secrets: NamedSecrets | None = None) -> list[str]:
    with pytest.raises(BadCatalogueError) as refused:
        read(text if isinstance(text, bytes) else text.encode(), "models.yaml", secrets)
    return str(refused.value).splitlines()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_of_the_documentation_is_a_good_catalogue(example: Path) -> None:
    assert read_file(example).models


def test_there_is_an_example_for_each_provider_that_is_promised() -> None:
    assert {path.stem for path in EXAMPLES} == {"simulator", "openai", "azure-openai", "vllm", "ollama"}


def test_no_example_holds_a_key() -> None:
    for example in EXAMPLES:
        assert "sk-" not in example.read_text()


def test_the_committed_schema_is_that_of_the_code() -> None:
    assert (DOCS / "models.schema.json").read_bytes() == models.schema(), "./justw models schema writes it"


def test_the_schema_explains_every_field_that_is_not_plain() -> None:
    target_fields = orjson.loads(models.schema())["$defs"]["TargetSpec"]["properties"]
    assert all(
        "description" in target_fields[name]
        for name in target_fields.keys() - {"timeouts", "caps", "price", "batching"}
    )


@pytest.mark.parametrize(
    ("text", "line", "field", "says"),
    [
        (models_yaml(model(target("a", weight="heavy"))), 5, "models.sim-small.targets[0].weight", "valid number"),
        (models_yaml(model(target("a", weight="'3'"))), 5, "models.sim-small.targets[0].weight", "valid number"),
        (models_yaml(model(target("a", wieght=3))), 5, "models.sim-small.targets[0].wieght", "not permitted"),
        (models_yaml(model(target("a"), fallback="[x]")), 6, "models.sim-small.fallback[0]", "no other model"),
        (models_yaml(model(target("a"), fallback="[sim-small]")), 6, "models.sim-small.fallback[0]", "no other model"),
        (models_yaml(model(target("a"), larger="x")), 6, "models.sim-small.larger", "no other model"),
        (models_yaml(model(target("a"), target("a"))), 6, "models.sim-small.targets[1].name", "already"),
        (models_yaml(model(target("a", weight=0))), 4, "models.sim-small.targets", "above 0"),
        (
            models_yaml(model(target("a"), canary="{target: b, percent: 5}")),
            6,
            "models.sim-small.canary.target",
            "no target of this model",
        ),
        (
            models_yaml(model(target("a"), canary="{target: a, percent: 5}")),
            4,
            "models.sim-small.targets",
            "above 0",
        ),
        (
            models_yaml(model(target("a"), target("b"), canary="{target: b, percent: 101}")),
            7,
            "models.sim-small.canary.percent",
            "less than or equal to 100",
        ),
        (models_yaml("  m:\n    targets:\n      - name: a\n"), 5, "models.m.targets[0].base_url", "required"),
        (models_yaml(model(target("a", base_url="ftp://a"))), 5, "models.sim-small.targets[0].base_url", "pattern"),
        (models_yaml(model(target("a", base_url="'http://u:p@a/v1'"))), 5, None, "pattern"),
        (models_yaml(model(target("a", base_url="'http://a/v1?key=k'"))), 5, None, "pattern"),
        (models_yaml(model(target("a"), name='"../../etc"')), 3, None, "pattern"),
        (models_yaml(model(target("a", api_key='"../etc/passwd"'))), 5, None, "pattern"),
        (models_yaml(model(target("a", price="{input_usd: 1, output_usd: 2}"))), 5, None, "required"),
        (models_yaml(model(target("a", timeouts="{gap_s: .nan}"))), 5, None, "valid number"),
        (models_yaml(model(target("a")), model(target("b"))), 6, "models.sim-small", "second time"),
        ("version: 1\nmodels: {}\n", 2, "models", "at least 1"),
        ("version: 2\nmodels: {}\n", 1, "version", "should be 1"),
        ("models: [\n", 2, None, "expected"),
        ("", 1, None, "an object"),
        ("version: !!python/object/apply:os.getcwd []\n", 1, None, ""),
        ("version: !mine 1\n", 1, "version", "tag"),
        ("? [a]\n: b\n", 1, None, "plain word"),
        ("x: &a [*a]\n", 1, None, "no YAML"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_by_file_line_and_field(text: str, line: int, field: str | None, says: str) -> None:
    told = problems(text)
    assert any(
        one.startswith(f"models.yaml:{line}: ") and (field is None or f" {field}: " in one) and says in one
        for one in told
    ), told


def test_every_problem_of_a_file_is_told_at_once() -> None:
    text = models_yaml(model(target("a", weight=-1), target("b", auth="basic")), model(target("c", x=1), name="m"))
    assert [one.split(":")[1] for one in problems(text)] == ["5", "6", "9"]


def test_a_file_that_is_no_text_or_endless_is_refused() -> None:
    assert problems(b"\xff\xfe") == ["models.yaml:1: it is no YAML in UTF-8"]
    assert "larger than" in problems(b"#" * (MAX_BYTES + 1))[0]
    assert problems(b"[" * 100_000)


def test_a_file_that_is_not_there_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(BadCatalogueError, match="No such file"):
        read_file(tmp_path / "models.yaml")


def test_a_secret_is_named_and_has_to_be_there_and_is_never_quoted(tmp_path: Path) -> None:
    text = models_yaml(model(target("a", api_key="MY_KEY"), target("b", api_key="OTHER")))
    (tmp_path / "MY_KEY").write_text("sk-of-the-file\n")
    secrets = NamedSecrets({"MY_KEY": "sk-of-the-environment", "OTHER": " "}, tmp_path)
    assert secrets.value("MY_KEY") == "sk-of-the-file"
    assert problems(text, secrets) == [
        "models.yaml:6: models.sim-small.targets[1].api_key: there is no secret of the name OTHER"
    ]
    assert "sk-" not in repr(secrets)


def test_a_revision_changes_with_what_a_catalogue_says_and_not_with_how() -> None:
    same = catalogue(f"# a comment\n{ONE_TARGET}\n\n")
    assert same.revision == catalogue(ONE_TARGET).revision
    assert same.revision != catalogue(ONE_TARGET.replace("//a", "//b")).revision


def test_the_gateway_is_told_the_dearest_price_and_none_when_one_is_unknown() -> None:
    dear = PRICE.replace("1", "3", 1)
    text = models_yaml(
        model(target("a", price=PRICE, caps="{max_output_tokens: 10}"), target("b", price=dear), name="known"),
        model(target("c", price=PRICE, caps="{max_output_tokens: 10}"), target("d"), name="unknown"),
    )
    published = catalogue(text).published()
    assert published["models"]["known"] == {
        "price": {"input_usd": 3, "output_usd": 2},
        "max_output_tokens": None,
    }
    assert published["models"]["unknown"]["price"] is None


@pytest.mark.parametrize("text", [ONE_TARGET, ONE_TARGET.replace("version: 1", "version: one")])
def test_the_command_judges_a_file_and_says_so_with_its_exit_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    file = tmp_path / "models.yaml"
    file.write_text(text)
    status = models.main(["check", str(file)])
    out, err = capsys.readouterr()
    if text == ONE_TARGET:
        assert (status, err) == (0, "")
        assert f"{file}: 1 models, 1 targets" in out
    else:
        assert (status, out) == (1, "")
        assert err.startswith(f"{file}:1: version: ")


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_no_content_does_anything_but_be_read_or_be_refused(content: bytes) -> None:
    with contextlib.suppress(BadCatalogueError):
        assert isinstance(read(content, "models.yaml"), Catalogue)

"""Commands, options, settings, links and metrics in the documentation exist."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from stream_ctr.cli.dispatcher import build_parser
from stream_ctr.config.settings import Settings, load_settings
from stream_ctr.config.toml import as_toml
from stream_ctr.datasets.schema import Schema, load_schema
from stream_ctr.experiments.report.model import read_report
from stream_ctr.experiments.watcher.metrics import ExperimentMetrics
from stream_ctr.monitoring.exposition import TrainerMetrics
from stream_ctr.monitoring.loss_metrics import JOIN_PREFIX, LossMetrics
from stream_ctr.serving.metrics import ServeMetrics
from tests.monitoring.test_exposition import full_numbers

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md")])
REPORT = ROOT / "tests" / "experiments" / "report" / "report_example.json"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
SHELLS = ("sh", "console")

Parser = argparse.ArgumentParser


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, *languages: str) -> list[str]:
    """Text of the page's code blocks in these languages."""
    return [text for language, text in FENCE.findall(page.read_text("utf-8")) if language in languages]


def prose(page: Path) -> str:
    """The page without its code blocks."""
    return FENCE.sub("", page.read_text("utf-8"))


@cache
def anchors(page: Path) -> frozenset[str]:
    """The anchors that renderers give a page's headings."""
    found: list[str] = []
    for title in re.findall(r"^#+ +(.+?) *$", prose(page), re.MULTILINE):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title).lower().replace(" ", "-")
        anchor = re.sub(r"[^\w-]", "", text)
        earlier = sum(re.fullmatch(rf"{re.escape(anchor)}(-\d+)?", other) is not None for other in found)
        found.append(f"{anchor}-{earlier}" if earlier else anchor)
    return frozenset(found)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_link_targets_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), target


def test_every_page_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert [page.name for page in (ROOT / "docs").glob("*.md") if f"(docs/{page.name})" not in text] == []


@cache
def command_line() -> Parser:
    return build_parser()[0]


def inner(parser: Parser) -> dict[str, Parser]:
    """The subcommands of a parser."""
    found: dict[str, Parser] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found.update(action.choices)
    return found


def command_of(words: list[str]) -> tuple[Parser, list[str]]:
    """The parser that a command's first words select, and the remaining words."""
    parser = command_line()
    while words and words[0] in inner(parser):
        parser, words = inner(parser)[words[0]], words[1:]
    return parser, words


def examples(page: Path) -> Iterator[list[str]]:
    """Arguments of each ``stream-ctr`` command in the page's shell blocks."""
    for text in blocks(page, *SHELLS):
        for line in text.replace("\\\n", " ").splitlines():
            found = re.match(r"(?:\$ )?(?:docker compose exec \S+ )?(?:\.venv/bin/)?stream-ctr (.*)", line)
            if found:
                words = shlex.split(found[1], comments=True)
                yield words[: words.index(">")] if ">" in words else words


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_examples_are_commands(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in examples(page):
        try:
            command_line().parse_args(words)
        except SystemExit:
            pytest.fail(f"{shlex.join(words)}: {capsys.readouterr().err}")


def mentions(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Commands in sentences, tables and usage lines, with the options mentioned for them."""
    for line in [*prose(page).splitlines(), *"".join(blocks(page, "")).splitlines()]:
        quoted = re.findall(r"`stream-ctr ([^`]+)`", line)
        usage = re.findall(r"^stream-ctr (?!serves at)(.+)", line)
        # In a table, the rest of the row is about the same command.
        row = re.findall(r"`(--[\w-]+)", line) if line.startswith("|") else []
        for text in quoted or usage:
            words = re.sub(r"[][]|\s#.*", " ", text).split()
            several = next((word for word in words if "\\|" in word), "")
            for one in several.split("\\|"):
                yield text, [one if word == several else word for word in words] + row


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_in_sentences_have_the_options_mentioned(page: Path) -> None:
    for text, words in mentions(page):
        parser, rest = command_of(words)
        assert parser is not command_line(), text
        for word in rest:
            assert not word.startswith("--") or word in parser._option_string_actions, (text, word)


def test_every_command_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    rows = " ".join(re.findall(r"^\| `stream-ctr ([^`]*)`", text, re.MULTILINE)).replace("\\|", " ").split()

    def leaves(parser: Parser) -> Iterator[str]:
        for name, own in inner(parser).items():
            if inner(own):
                yield from leaves(own)
            else:
                yield name

    assert [name for name in leaves(command_line()) if name not in rows] == []


# The configuration in extending.md needs the package on that page: tests/test_extending.py runs it.
@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "extending.md"], ids=name_of)
def test_configuration_examples_load(page: Path, tmp_path: Path) -> None:
    for number, text in enumerate(blocks(page, "toml")):
        table = tomllib.loads(text)
        weights = [arm["weight"] for arm in table.get("experiment", {}).get("arms", [])]
        path = tmp_path / f"{number}.toml"
        if "label" in table:  # the schema of a dataset file
            path.write_text(text, "utf-8")
            load_schema(path)
            continue
        if weights and sum(weights) < 1:  # the page shows only the arms that it is about
            text = f'[[experiment.arms]]\nname = "other"\nweight = {1 - sum(weights)}\n{text}'
        if "thompson" in table.get("experiment", {}):
            arms = "".join(f'[[experiment.arms]]\nname = "{name}"\nweight = 0.5\n' for name in "ab")
            text = text.replace("[experiment]", '[experiment]\nname = "x"\nsalt = "y"') + arms
        path.write_text(text, "utf-8")
        settings = load_settings(path)
        path.write_text(as_toml(settings), "utf-8")
        assert load_settings(path) == settings


def test_the_keys_of_a_schema_are_in_the_docs_and_have_the_defaults_given() -> None:
    text = (ROOT / "docs" / "datasets.md").read_text("utf-8")
    defaults = {field.name: field.default for field in msgspec.structs.fields(Schema)}
    assert [name for name in defaults if not re.search(rf"(`{name}`|^{name} =)", text, re.MULTILINE)] == []
    for name, default in re.findall(r"^\| `(\w+)` \| `?([\d.]+|\"\w+\"|\",\")`? \|", text, re.MULTILINE):
        assert json.loads(default) == defaults[name], name


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_settings_in_sentences_exist(page: Path) -> None:
    sections = Settings.model_fields
    for section, key in re.findall(r"`(\w+)\.(\w+)(?: = [^`]*)?`", prose(page)):
        if section in sections and key not in ("py", "toml", "md", "txt", "csv"):
            own = sections[section].annotation
            known = getattr(own, "__dataclass_fields__", None) or getattr(own, "model_fields", {})
            assert key in known, f"{section}.{key}"


@cache
def metrics() -> frozenset[str]:
    """Names of all metrics of all processes, as queries use them."""
    trainer, watcher = TrainerMetrics(), CollectorRegistry()
    trainer.publish(full_numbers("main"))
    registry = CollectorRegistry()
    registry.register(trainer)
    watcher.register(ExperimentMetrics(lambda: read_report(REPORT)))
    joiner = CollectorRegistry()
    joiner.register(LossMetrics(JOIN_PREFIX))
    registries = (registry, watcher, joiner)
    texts = (*map(generate_latest, registries), ServeMetrics().render())
    found: set[str] = set()
    for text in texts:
        for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text.decode(), re.MULTILINE):
            found.add(name)
            if kind == "histogram":
                found |= {f"{name}_{part}" for part in ("bucket", "sum", "count")}
    return frozenset(found)


@pytest.mark.parametrize(
    "page",
    [*PAGES, *sorted((ROOT / "deploy").glob("*.yml")), *sorted((ROOT / "deploy").rglob("*.json"))],
    ids=name_of,
)
def test_metrics_exist(page: Path) -> None:
    named = set(re.findall(r"\bstream_ctr_\w+", page.read_text("utf-8")))
    beginnings = {name for name in named if name.endswith("_")}
    assert {name for name in named - beginnings if name not in metrics()} == set()
    assert all(any(name.startswith(start) for name in metrics()) for start in beginnings)

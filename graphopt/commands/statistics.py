"""`graphopt passes --statistics`."""

from __future__ import annotations

from graphopt.api import trace
from graphopt.commands.sources import read_source
from graphopt.debugging.explanation import RuleCount
from graphopt.debugging.explanation_text import rule_table, untried_text
from graphopt.debugging.runs import pipeline_run
from graphopt.debugging.tables import Table
from graphopt.debugging.turns import rule_counts
from graphopt.ir import Graph


def rule_statistics(text: str, passes: str, target: str) -> list[RuleCount]:
    """Run `passes` on the model or graph that `text` names, unchecked, and count what each rule did.

    Raises:
        GraphOptError: whatever reading the model, capture or the passes raise.
    """
    source = read_source(text)
    graph = source.model
    if not isinstance(graph, Graph):
        graph = trace(graph, source.args or (), source.kwargs)
    return rule_counts(pipeline_run(graph, None, target=target, passes=passes, validate=False).report)


def statistics_view(counts: list[RuleCount], text: str) -> tuple[Table, str]:
    """Return the table of the rules that were tried, and a line on the others."""
    never = sum(1 for count in counts if count.attempts and not count.fired)
    table = rule_table(counts, f"rules on {text}: {sum(c.fired for c in counts)} fired, {never} were tried in vain")
    return table, untried_text(counts)

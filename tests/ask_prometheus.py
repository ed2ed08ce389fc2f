"""Asks a Prometheus every query of the dashboard, and every expression of the rules.

    ask_prometheus.py URL DEPLOY

DEPLOY is the folder deploy/. Prints how many answered with data and which did not; exit status 1 if any did not. What only a
GPU's driver tells is left out where no server has one.
"""

import json
import re
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

# What Grafana puts in.
VARIABLES = {"$__rate_interval": "10s", "$instance": ".+"}
OF_GPUS = "sage_gpu_"
PATIENCE_SECONDS = 20


def get(url: str, path: str, **parameters: str) -> dict:
    """The answer of Prometheus' HTTP interface."""
    query = urllib.parse.urlencode(parameters)
    with urllib.request.urlopen(f"{url}/api/v1/{path}?{query}", timeout=10) as answer:
        return json.load(answer)["data"]


def dashboard_queries(deploy: Path) -> "list[tuple[str, str]]":
    """Panel's title and query."""
    dashboard = json.loads((deploy / "grafana" / "sage-server.json").read_text(encoding="utf-8"))
    queries = []
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            query = target["expr"]
            for variable, value in VARIABLES.items():
                query = query.replace(variable, value)
            queries.append((panel["title"], query))
    return queries


def rule_queries(url: str) -> "list[tuple[str, str]]":
    """Rule's name and expression; of an alert, the figure that it compares with a number."""
    queries = []
    for group in get(url, "rules")["groups"]:
        for rule in group["rules"]:
            query = rule["query"]
            if rule["type"] == "alerting":
                query, comparisons = re.subn(r" (>|<|==) [0-9.]+$", "", query)
                if comparisons != 1:
                    raise ValueError(f"{rule['name']} does not end in a comparison with a number")
            queries.append((rule["name"], query))
    return queries


def has_data(url: str, query: str) -> bool:
    """Whether it answers with a number, NaN not being one."""
    samples = get(url, "query", query=query)["result"]
    return any(sample["value"][1] != "NaN" for sample in samples)


def main() -> int:
    """Asks them all; those without data once more, for as long as patience lasts."""
    url, deploy = sys.argv[1], Path(sys.argv[2])
    queries = dashboard_queries(deploy) + rule_queries(url)
    if not has_data(url, f'{{__name__=~"{OF_GPUS}.*"}}'):
        asked = len(queries)
        queries = [(name, query) for name, query in queries if OF_GPUS not in query]
        print(f"{asked - len(queries)} queries want a GPU")
    end = time.monotonic() + PATIENCE_SECONDS
    silent = queries
    while silent and time.monotonic() < end:
        silent = [(name, query) for name, query in silent if not has_data(url, query)]
    print(f"{len(queries) - len(silent)} of {len(queries)} queries answered with data")
    for name, query in silent:
        print(f"no data: {name}: {query}")
    return 1 if silent else 0


if __name__ == "__main__":
    sys.exit(main())

"""Checks the ServiceMonitors of rendered manifests by models that are made from the operator's resource definition.

    check_service_monitor.py MANIFESTS

Fields must be known, of their type and all there, and each monitor must select a Service that has the ports that it names.
Prints what is wrong; exit status 1 if anything is, or if there is no monitor.
"""

import sys
from pathlib import Path

import pydantic
import yaml
from cloudcoil.models.prometheus_operator import v1


def wrong_with_fields(monitor: dict) -> "list[str]":
    """What the model refuses, or does not know."""
    try:
        known = v1.ServiceMonitor.model_validate(monitor).model_dump(by_alias=True, exclude_unset=True, mode="json")
    except pydantic.ValidationError as error:
        return [str(error)]
    return [] if known == monitor else [f"unknown fields: {monitor} is read as {known}"]


def wrong_with_selection(monitor: dict, services: "list[dict]") -> "list[str]":
    """Whether what it scrapes is there."""
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    selected = [s for s in services if wanted <= s["metadata"].get("labels", {}).items()]
    if not selected:
        return [f"no Service has the labels {dict(wanted)}"]
    ports = {port["name"] for service in selected for port in service["spec"]["ports"]}
    named = {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]}
    return [f"no Service that it selects has a port {port}" for port in sorted(named - ports)]


def main() -> int:
    """Checks each monitor."""
    manifests = list(yaml.safe_load_all(Path(sys.argv[1]).read_text(encoding="utf-8")))
    monitors = [m for m in manifests if m["kind"] == "ServiceMonitor"]
    services = [m for m in manifests if m["kind"] == "Service"]
    wrong = [] if monitors else ["no ServiceMonitor"]
    for monitor in monitors:
        wrong += wrong_with_fields(monitor) or wrong_with_selection(monitor, services)
    print("\n".join(wrong), end="\n" if wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

"""Checks that the compositions refer to what there is, which their schema cannot tell.

    check_compose.py DEPLOY

DEPLOY is the folder deploy/. Of compose.yaml, alone and under each compose.*.yaml: a service that is built names a target of its
Dockerfile, and the image that the head of the Dockerfile builds from that target; files and folders that are mounted are there;
`docker compose stop` waits longer than a server drains. Prints what is wrong; exit status 1 if anything is.
"""

import re
import sys
from pathlib import Path

import yaml

SECONDS = re.compile(r"^([0-9]+)s$")


def merged(under: object, over: object) -> object:
    """As compose merges mappings; other values are replaced."""
    if not isinstance(under, dict) or not isinstance(over, dict):
        return over
    keys = [*under, *(key for key in over if key not in under)]
    return {key: merged(under.get(key), over[key]) if key in over else under[key] for key in keys}


def wrong_with_build(service: dict, folder: Path) -> "list[str]":
    """Target and image of a service that is built."""
    dockerfile = folder / service["build"]["context"] / service["build"]["dockerfile"]
    if not dockerfile.is_file():
        return [f"no {dockerfile}"]
    text = dockerfile.read_text(encoding="utf-8")
    target, image = service["build"]["target"], service["image"]
    wrong = []
    if not re.search(rf"^FROM \S+ AS {re.escape(target)}$", text, re.MULTILINE):
        wrong.append(f"target {target} is not in {dockerfile.name}")
    if not re.search(rf"^# .*--target {re.escape(target)} +-t {re.escape(image)} ", text, re.MULTILINE):
        wrong.append(f"{dockerfile.name} does not build {image} from {target}")
    return wrong


def wrong_with_mounts(service: dict, folder: Path, volumes: "set[str]") -> "list[str]":
    """Sources of mounts."""
    sources = [mount.split(":")[0] for mount in service.get("volumes", [])]
    return [
        f"nothing to mount at {source}"
        for source in sources
        if not (source in volumes or (source.startswith("./") and (folder / source).exists()))
    ]


def wrong_with_stop(service: dict) -> "list[str]":
    """Time to drain of a service that has one."""
    drains = [o.split("=")[1] for o in service.get("command", []) if o.startswith("--drain-timeout-ms=")]
    if not drains:
        return []
    grace = SECONDS.match(service.get("stop_grace_period", "10s"))
    if grace is None or int(grace[1]) * 1000 <= int(drains[-1]):
        return [f"stop_grace_period is not longer than the drain of {drains[-1]} ms"]
    return []


def main() -> int:
    """Checks each composition."""
    deploy = Path(sys.argv[1])
    base = yaml.safe_load((deploy / "compose.yaml").read_text(encoding="utf-8"))
    compositions = {"compose.yaml": base}
    for over in sorted(deploy.glob("compose.*.yaml")):
        compositions[over.name] = merged(base, yaml.safe_load(over.read_text(encoding="utf-8")))
    wrong = []
    for file, composition in compositions.items():
        volumes = set(composition.get("volumes", {}))
        for name, service in composition["services"].items():
            found = wrong_with_build(service, deploy) if "build" in service else []
            found += wrong_with_mounts(service, deploy, volumes) + wrong_with_stop(service)
            wrong += [f"{file}: {name}: {what}" for what in found]
    print("\n".join(wrong), end="\n" if wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

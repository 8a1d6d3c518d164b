"""`python docs/architecture.py`: renews the parts of docs/architecture/README.md that are made from the code; a test compares them."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import grimp

from admission.config import AdmissionSettings
from admission.service.mount import NAMES as ADMISSION_SERVICES
from degraded_pool.config import Settings as PoolSettings
from http_bridge.config import BridgeSettings
from lane_anisora.config import Settings as AnisoraSettings
from lane_phr00t.config import Settings as Phr00tSettings
from runtime.lane.inspection import SERVICE_NAME as INSPECTION
from runtime.roles import ALLOWED, OPEN_SERVICES, Role

_ROOT = Path(__file__).resolve().parents[1]
PAGE = _ROOT / "docs" / "architecture" / "README.md"

_PART = re.compile(r"(<!-- made by docs/architecture.py: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

_LANES = {"lane-anisora": AnisoraSettings, "lane-phr00t": Phr00tSettings, "degraded-pool": PoolSettings}
_PROCESSES = {"admission": AdmissionSettings, "http-bridge": BridgeSettings, **_LANES}
# Who of the processes calls others, and as what.
_CALLERS = {Role.BRIDGE: ("http-bridge",), Role.LANE: tuple(_LANES), Role.CLIENT: ("programs",), Role.OPERATOR: ("operators",)}
_PEOPLE = {"browsers": "browsers, scripts", "programs": "programs, engineers", "operators": "operators, autoscalers, warmlane"}

_GENERATED = "warmlane"
_OVERVIEW = (
    "command_line",
    "http_bridge",
    "admission",
    "degraded_pool",
    "lane_anisora",
    "lane_phr00t",
    "runtime.lane",
    "runtime",
    _GENERATED,
)
_LABELS = {_GENERATED: "protos/gen"}


def page(text: str) -> str:
    """The page with its made parts as they should be.

    Raises:
        ValueError: it has other parts than are made.
    """
    made = {"processes": _processes, "services": _services, "packages": _packages, "insides": _insides}
    names = [match[2] for match in _PART.finditer(text)]
    if sorted(names) != sorted(made):
        msg = f"{PAGE.name} must have one part each of {', '.join(made)}, not {', '.join(names)}"
        raise ValueError(msg)
    return _PART.sub(lambda match: f"{match[1]}\n{made[match[2]]()}\n{match[3]}", text)


def _processes() -> str:
    """Who calls whom: from the roles of the methods, and who stores where: from the settings."""
    served = dict.fromkeys(ADMISSION_SERVICES, "admission") | {INSPECTION: "lanes"}
    lines = [*(f'    {_id(name)}(["{told}"])' for name, told in _PEOPLE.items()), *(f'    {_id(name)}["{name}"]' for name in _PROCESSES)]
    lines += ['    objects[("object store")]', '    database[("SQLite or PostgreSQL")]', "    browsers -- HTTP --> http_bridge"]
    for caller, server, services in _calls(served):
        for target in _LANES if server == "lanes" else (server,):
            lines.append(f'    {_id(caller)} -- "{" ".join(services)}" --> {_id(target)}')
    lines += [f"    {_id(name)} --> objects" for name, settings in _PROCESSES.items() if "object_store_url" in settings.model_fields]
    lines += [f"    {_id(name)} --> database" for name, settings in _PROCESSES.items() if "database_url" in settings.model_fields]
    return _mermaid(["flowchart LR", *lines])


def _calls(served: Mapping[str, str]) -> Iterator[tuple[str, str, list[str]]]:
    """Caller, server, and the services that the caller's role may call there."""
    for role, callers in _CALLERS.items():
        for server in dict.fromkeys(served.values()):
            services = [
                service.rpartition(".")[2]
                for service, where in served.items()
                if where == server and any(role in roles for roles in ALLOWED[service].values())
            ]
            for caller in callers if services else ():
                yield caller, server, services


def _services() -> str:
    lines = ["| service | method | " + " | ".join(Role) + " |", "|---|---|" + "---|" * len(Role)]
    for service, methods in ALLOWED.items():
        for method, roles in methods.items():
            cells = " | ".join("yes" if role in roles else "" for role in Role)
            lines.append(f"| `{service}` | `{method}` | {cells} |")
    lines += [f"| `{service}` | all | " + " | ".join("yes" for _ in Role) + " |" for service in sorted(OPEN_SERVICES)]
    return "\n".join(lines) + "\n"


def _packages() -> str:
    return _imports(_OVERVIEW)


def _insides() -> str:
    parts = []
    for title, root in (("`admission/`", "admission"), ("`runtime/`", "runtime"), ("`runtime/lane/`", "runtime.lane")):
        inner = [f"{root}.{name}" for name in _subpackages(root)]
        parts.append(f"{title}; a box with the name of the whole is what lies in no package of its own:\n\n{_imports((*inner, root))}")
    return "\n".join(parts)


def _subpackages(root: str) -> list[str]:
    folder = _ROOT / root.replace(".", "/")
    return sorted(path.parent.name for path in folder.glob("*/__init__.py"))


def _imports(groups: Sequence[str]) -> str:
    """Who imports whom, of these packages; a module belongs to the longest name that it begins with."""
    graph = _graph()
    edges: set[tuple[str, str]] = set()
    for module in graph.modules:
        importer = _group_of(module, groups)
        for imported in graph.find_modules_directly_imported_by(module) if importer else ():
            target = _group_of(imported, groups)
            if target and target != importer and importer:
                edges.add((importer, target))
    shown = [name for name in groups if any(name in edge for edge in edges)]
    lines = [f'    {_id(name)}["{_LABELS.get(name, name)}"]' for name in shown]
    lines += [f"    {_id(importer)} --> {_id(target)}" for importer, target in sorted(edges)]
    return _mermaid(["flowchart TD", *lines])


def _group_of(module: str, groups: Sequence[str]) -> str:
    found = [name for name in groups if module == name or module.startswith(f"{name}.")]
    return max(found, key=len, default="")


@cache
def _graph() -> grimp.ImportGraph:
    # Without a cache: it would be written beside the page.
    roots = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["root_packages"]
    return grimp.build_graph(*roots, include_external_packages=True, exclude_type_checking_imports=True, cache_dir=None)


def _id(name: str) -> str:
    return re.sub(r"\W", "_", name)


def _mermaid(lines: Sequence[str]) -> str:
    return "```mermaid\n" + "\n".join(lines) + "\n```\n"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

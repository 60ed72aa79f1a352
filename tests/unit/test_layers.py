"""The layers: imports go down only, and in no circle.

cli > launcher; launcher, app > gateway > cluster, demo > link, model, processor, protocol, weights > config, token >
signature > errors, address, folders.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator, Mapping
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import aoti_serve
from tests.unit.source import parsed

ROOT = Path(aoti_serve.__file__).parent
RANKS = {
    "__main__": 8,
    "cli": 7,
    "app": 6,
    "launcher": 6,
    "gateway": 5,
    "cluster": 4,
    "demo": 4,
    "link": 3,
    "model": 3,
    "processor": 3,
    "protocol": 3,
    "weights": 3,
    "config": 2,
    "token": 2,
    "signature": 1,
    "address": 0,
    "errors": 0,
    "folders": 0,
}
FACADE = "the package root"
COMMAND_LINE = {"cli", "launcher"}  # which talk to gateways over HTTP and Ray, as everybody else does
RAY_UNITS = {"cluster", "gateway", "app", "launcher"}
NATIVE = "model/aoti/"
TORCH_PRIVATE = "signature/torch_private.py"
CIRCULAR = {"gateway"}  # http/ serves the document that openapi/ makes of http/'s routes
MAX_LINES = 250
EVERYWHERE = {"logger", "T"}  # a logger and a type variable of a module's own
MAX_MODULES = 12


def modules() -> list[str]:
    return sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))


def unit_of(module: str) -> str:
    return FACADE if module == "__init__.py" else module.removesuffix(".py").partition("/")[0]


def imported(module: str, source: str) -> Iterator[str]:
    """Full dotted names of what a module imports, wherever the import stands."""
    package = ["aoti_serve", *module.split("/")[:-1]]
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def upward(module: str, source: str) -> list[str]:
    """The imports of our own modules that do not go down."""
    return [
        name
        for name in imported(module, source)
        if name.partition(".")[0] == "aoti_serve"
        and name != "aoti_serve.__version__"
        and not allowed(unit_of(module), name)
    ]


def allowed(unit: str, name: str) -> bool:
    if unit in (FACADE, "app"):
        return True
    target = name.split(".")[1] if "." in name else FACADE
    if target not in RANKS or target == "app" or (unit in COMMAND_LINE and target == "gateway"):
        return False
    return target == unit or RANKS[target] < RANKS[unit]


def foreign(module: str, source: str) -> list[str]:
    """The imports of libraries that this module may not use."""
    unit, found = unit_of(module), []
    for name in imported(module, source):
        top = name.partition(".")[0]
        if (
            (top == "ray" and unit not in RAY_UNITS)
            or (top == "fastapi" and unit != "gateway")
            or (top in ("typer", "rich") and unit != "cli")
            or (top == "ctypes" and not module.startswith(NATIVE))
        ):
            found.append(name)
    return found + ([] if module.startswith((NATIVE, TORCH_PRIVATE)) else torch_internals(module, source))


def torch_internals(module: str, source: str) -> list[str]:
    """What it uses of torch that torch's authors call private."""
    uses = [ast.unparse(node) for node in ast.walk(parsed(source)) if isinstance(node, ast.Attribute)]
    return [name for name in [*imported(module, source), *uses] if is_private_torch(name)]


def is_private_torch(name: str) -> bool:
    top, *parts = name.split(".")
    return top == "torch" and any(part.startswith("_") and not part.endswith("__") for part in parts)


MODULES = [pytest.param(name, id=name.removesuffix(".py")) for name in modules()]


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down_only(module: str) -> None:
    assert upward(module, (ROOT / module).read_text()) == []


@pytest.mark.parametrize("module", MODULES)
def test_libraries_stay_in_their_layers(module: str) -> None:
    assert foreign(module, (ROOT / module).read_text()) == []


@pytest.mark.parametrize("module", MODULES)
def test_a_module_fits_the_page(module: str) -> None:
    assert len((ROOT / module).read_text().splitlines()) <= MAX_LINES


def test_a_room_has_a_dozen_modules_at_most() -> None:
    rooms = Counter(module.rpartition("/")[0] for module in modules() if not module.endswith("__init__.py"))
    assert {room: count for room, count in rooms.items() if count > MAX_MODULES} == {}


def test_no_imports_go_in_a_circle() -> None:
    """`TopologicalSorter` raises a CycleError, which names them."""
    names = {dotted(module): module for module in modules()}
    graph = {
        name: {target for found in imported(module, (ROOT / module).read_text()) if (target := nearest(found, names))}
        for name, module in names.items()
    }
    tuple(TopologicalSorter({name: targets - {name} for name, targets in graph.items()}).static_order())


@pytest.mark.parametrize("unit", sorted(unit for unit in RANKS if (ROOT / unit).is_dir() and unit not in CIRCULAR))
def test_the_rooms_of_a_unit_form_no_circle(unit: str) -> None:
    graph: dict[str, set[str]] = {}
    for module in modules():
        if (room := room_of(module)).startswith(f"{unit}/"):
            found = (room_of(name.replace(".", "/")) for name in imported(module, (ROOT / module).read_text()))
            graph.setdefault(room, set()).update(other for other in found if other.startswith(f"{unit}/"))
    tuple(TopologicalSorter({room: others - {room} for room, others in graph.items()}).static_order())


def room_of(path: str) -> str:
    """The folder in a unit in which a module lies, as `weights/store`; the unit for those beside its rooms."""
    parts = path.removeprefix("aoti_serve/").split("/")
    return "/".join(parts[:2]) if (ROOT / parts[0] / (parts[1] if parts[1:] else "")).is_dir() else parts[0]


def public_names(module: str) -> Iterator[str]:
    """The classes, functions and values that a module gives to others."""
    for node in parsed((ROOT / module).read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names = [node.name]
        else:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
        yield from (name for name in names if not name.startswith("_") and name not in EVERYWHERE)


def test_a_public_name_means_one_thing() -> None:
    named = Counter(name for module in modules() for name in set(public_names(module)))
    assert {name: count for name, count in named.items() if count > 1} == {}


def dotted(module: str) -> str:
    return "aoti_serve." + module.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def nearest(name: str, names: Mapping[str, str]) -> str:
    """The module of ours that an imported name is, or is in; "" for what is not ours."""
    while name and name not in names:
        name = name.rpartition(".")[0]
    return name


@pytest.mark.parametrize("module", MODULES)
def test_every_module_has_a_layer(module: str) -> None:
    assert unit_of(module) in {*RANKS, FACADE}


@pytest.mark.parametrize(
    ("module", "source"),
    [
        pytest.param("weights/swap/swap.py", "from aoti_serve.model.gate import Gate", id="sibling"),
        pytest.param("protocol/decode.py", "from aoti_serve.weights import swap", id="sibling-package"),
        pytest.param("model/gate.py", "import aoti_serve.cluster.deployments", id="upward"),
        pytest.param("model/gate.py", "def f():\n    import aoti_serve.cluster.deployments", id="inside-a-function"),
        pytest.param("errors/base.py", "from aoti_serve.signature.tensors import DTYPES", id="sideways"),
        pytest.param("config.py", "if TYPE_CHECKING:\n    from aoti_serve.token import read_token", id="type-checking"),
        pytest.param("model/gate.py", "from ..cluster import names", id="relative"),
        pytest.param("model/gate.py", "from ..cluster.deployments import GATEWAY", id="relative-module"),
        pytest.param("weights/store/store.py", "from aoti_serve import Package", id="through-the-root"),
        pytest.param("weights/store/store.py", "import aoti_serve", id="the-root-itself"),
        pytest.param("cli/server.py", "from aoti_serve.gateway.access import Access", id="cli-gateway"),
        pytest.param("cli/server.py", "from aoti_serve.app import build", id="cli-app"),
        pytest.param("launcher/server.py", "from aoti_serve.cli.console import out", id="launcher-cli"),
        pytest.param("launcher/server.py", "from aoti_serve.gateway.in_flight import InFlight", id="launcher-gateway"),
        pytest.param("gateway/http/app.py", "from aoti_serve.app import build", id="gateway-app"),
    ],
)
def test_the_check_sees_an_import_that_does_not_go_down(module: str, source: str) -> None:
    assert len(upward(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        pytest.param("model/container.py", "import ray", id="ray"),
        pytest.param("weights/swap/swap.py", "from ray.exceptions import RayError", id="ray-from"),
        pytest.param("cluster/membership/member.py", "import fastapi", id="fastapi"),
        pytest.param("launcher/server.py", "import rich.status", id="rich"),
        pytest.param("cli/server.py", "import ray", id="cli-ray"),
        pytest.param("model/container.py", "import ctypes", id="ctypes"),
        pytest.param("model/container.py", "from torch import _C", id="torch-c-from"),
        pytest.param("model/container.py", "from torch._C import _aoti", id="torch-c-module"),
        pytest.param("model/container.py", "import torch\nx = torch._C", id="torch-c-attribute"),
        pytest.param("model/export.py", "import torch\ntorch._inductor", id="torch-inductor"),
        pytest.param("model/export.py", "from torch.utils import _pytree as pytree", id="torch-pytree"),
        pytest.param("model/export.py", "from torch.export._tree_utils import reorder_kwargs", id="torch-export"),
    ],
)
def test_the_check_sees_a_library_out_of_its_layer(module: str, source: str) -> None:
    assert len(foreign(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        pytest.param("app.py", "from aoti_serve.gateway.deployment import Gateway", id="app-everything"),
        pytest.param("gateway/http/app.py", "from aoti_serve import __version__", id="version"),
        pytest.param("gateway/http/app.py", "import fastapi, ray", id="gateway-libraries"),
        pytest.param("model/export.py", "import torch\nx = torch.__version__, torch.export.export", id="torch-public"),
        pytest.param("signature/torch_private.py", "from torch.utils import _pytree as pytree", id="torch-private"),
        pytest.param("model/aoti/c_abi.py", "import ctypes, torch\nx = torch._C._aoti", id="native"),
        pytest.param("model/gate.py", "from aoti_serve.model import package", id="same-unit"),
    ],
)
def test_the_check_lets_pass_what_goes_down(module: str, source: str) -> None:
    assert upward(module, source) + foreign(module, source) == []

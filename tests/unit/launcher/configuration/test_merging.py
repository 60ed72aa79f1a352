"""What is deployed where others have theirs. The values are Serve's own schema objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray.serve.schema import ServeApplicationSchema, ServeDeploySchema

from aoti_serve.config import AppConfig
from aoti_serve.errors import StartFailed
from aoti_serve.launcher.configuration.config_file import BUILDER, ConfigFile, Ours
from aoti_serve.launcher.configuration.merging import Deployed, deployed_among, merge_deployments


def application(name: str = "default", *models: str, store: str = "", **more: Any) -> dict[str, Any]:
    entries = [
        {"name": model, "package": f"/m/{model}.pt2", "store": f"/{store or 'stores'}/{model}"} for model in models
    ]
    return {"name": name, "import_path": BUILDER, "args": {"models": entries}} | more


def file_of(*applications: dict[str, Any]) -> ConfigFile:
    ours = [
        Ours(entry["name"], "", AppConfig.model_validate(entry["args"]), {})
        for entry in applications
        if entry["import_path"] == BUILDER
    ]
    return ConfigFile(Path("serve.yaml"), {"applications": list(applications)}, ours)


def there(content: dict[str, Any]) -> Deployed:
    return Deployed(content.get("route_prefix", "/"), content)


TINY = application("default", "tiny")
COWORKER = {"name": "coworker", "import_path": "plain:app", "route_prefix": "/coworker"}
PROGRAM = Deployed("/notebook", None)


def names(content: dict[str, Any]) -> list[str]:
    return [entry.name for entry in ServeDeploySchema.model_validate(content).applications]


def test_all_that_files_have_deployed_stays_as_it_is_and_what_programs_have_is_not_serves_to_delete() -> None:
    found = merge_deployments(file_of(TINY), {"coworker": there(COWORKER), "notebook": PROGRAM}, replace=False)
    assert names(found) == ["coworker", "default"]
    assert found["applications"][0] == COWORKER


def test_the_same_application_is_updated() -> None:
    changed = application("default", "tiny", "more", deployments=[{"name": "gateway", "num_replicas": 2}])
    found = merge_deployments(file_of(changed), {"default": there(TINY)}, replace=False)
    assert found["applications"] == [changed]


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        pytest.param(there({"name": "default", "import_path": "plain:app"}), "which is plain:app", id="foreign"),
        pytest.param(PROGRAM, "which a program has deployed", id="a-programs"),
        pytest.param(there(application("default", "other")), "which serves other, and this file does not", id="others"),
        pytest.param(
            there(application("default", "tiny", store="elsewhere")),
            "whose 'tiny' has its versions in /elsewhere/tiny",
            id="another-store",
        ),
    ],
)
def test_what_is_somebody_elses_is_replaced_by_order_only(found: Deployed, reason: str) -> None:
    with pytest.raises(StartFailed, match=f"runs an application 'default' already, {reason}; --replace"):
        merge_deployments(file_of(TINY), {"default": found}, replace=False)
    assert merge_deployments(file_of(TINY), {"default": found}, replace=True)["applications"] == [TINY]


def test_a_foreign_application_of_the_file_may_follow_itself() -> None:
    assert names(merge_deployments(file_of(COWORKER), {"coworker": there(COWORKER)}, replace=False)) == ["coworker"]


def test_one_that_listens_itself_gives_way_where_another_has_its_prefix() -> None:
    second = application("second", "more")
    found = merge_deployments(file_of(second), {"default": there(TINY)}, replace=False)
    assert names(found) == ["default", "second"]
    assert found["applications"][1]["route_prefix"] is None
    assert "route_prefix" not in second, "the file's own is not changed"


@pytest.mark.parametrize("more", [{"route_prefix": "/"}, {"listens": False}])
def test_one_that_needs_its_prefix_is_refused_where_another_has_it(more: dict[str, Any]) -> None:
    second = application("second", "more", **{key: more[key] for key in more if key != "listens"})
    if "listens" in more:
        second["args"]["gateway"] = {"http_port": None}
    with pytest.raises(StartFailed, match="'default' has the route prefix / already: give 'second' another"):
        merge_deployments(file_of(second), {"default": there(TINY)}, replace=False)


def test_what_is_there_is_told_from_serves_details() -> None:
    """Configurations outlive their applications; a program may have deployed one of the same name since."""
    schemas = {
        entry["name"]: ServeApplicationSchema.model_validate(entry)
        for entry in (COWORKER, TINY, application("gone", "x"), application("notebook", "y"))
    }
    states = {
        "coworker": {"status": "RUNNING", "source": "declarative", "route_prefix": "/coworker"},
        "default": {"status": "DEPLOYING", "source": "declarative", "route_prefix": None},
        "gone": {"status": "DELETING", "source": "declarative", "route_prefix": "/gone"},
        "notebook": {"status": "RUNNING", "source": "imperative", "route_prefix": "/notebook"},
    }
    found = deployed_among({"applications": states}, schemas)
    assert found == {"coworker": there(COWORKER), "default": Deployed(None, TINY), "notebook": PROGRAM}
    assert found["default"].models == {"tiny": "/stores/tiny"}
    assert found["coworker"].models is None


def test_an_application_of_another_version_of_ours_serves_nothing_that_is_known() -> None:
    strange = {"name": "default", "import_path": BUILDER, "args": {"models": [{"nme": "a"}]}}
    assert there(strange).models == {}

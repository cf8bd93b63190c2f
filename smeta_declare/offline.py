"""What can be said without a database: the plan of a project, as if nothing else were applied. Pure."""

from __future__ import annotations

from smeta_declare.environment import Environment
from smeta_declare.plan import Plan
from smeta_declare.planner import plan_apply
from smeta_declare.project import Project
from smeta_declare.run import AppliedMigration, History, Target

_NOWHERE = Target(system_identifier="", database="", user="", server_version_num=0, server_version="")


def unbound_plan(
    environment: Environment, project: Project, applied: tuple[AppliedMigration, ...] = ()
) -> Plan:
    """The way forward from an empty history, or from these rows of one. It names no target: nothing may run it."""
    return plan_apply(
        environment, History(applied=applied), _NOWHERE, lambda entry: project.rendered(environment, entry)
    )

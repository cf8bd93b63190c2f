"""What a backup must contain, as declared. Doing it is `backup.dump`'s business."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupPolicy:
    """One entry of `backups.policies`."""

    name: str
    scope: Literal["schema", "full"]
    format: Literal["plain", "custom"]
    role: str | None = None  # what pg_dump works as; with forced row security it needs BYPASSRLS
    compress: int | None = None  # gzip level 0-9, custom format only; None = pg_dump's own default

    def covers(self, other: BackupPolicy) -> bool:
        """Whether this policy keeps at least what the other one keeps."""
        return self.scope == "full" or other.scope == "schema"


def strongest(policies: tuple[BackupPolicy, ...]) -> BackupPolicy | None:
    """The policy that satisfies all of them: a migration may only ask for more than its environment."""
    best: BackupPolicy | None = None
    for policy in policies:
        if best is None or not best.covers(policy):
            best = policy
    return best

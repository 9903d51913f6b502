"""Clears the release of a running replica again, before the replica restarts or is replaced.

Only a new process needs the clearance. The replica itself can always be drained and stopped.
"""

from __future__ import annotations

import asyncio

from vita.gates.clearance import RetiredModelError
from vita.server.service.deploy_checks import ClearRelease
from vita.server.service.replica_process import ReplicaProcess
from vita.spine.errors import GateError, LedgerError, VitaError


async def clear_restart(clear: ClearRelease, replica: ReplicaProcess) -> bool:
    """Return True if a replica may restart; an unreachable ledger does not prevent the restart."""
    try:
        await asyncio.to_thread(clear, replica.release, replica.terms, record=False)
    except LedgerError as error:
        replica.notify(f"{replica.name} restarts without a new clearance: {error}")
    except VitaError as error:
        replica.backend.reason = f"it does not restart: {error}"
        replica.notify(f"{replica.name} does not restart: {error}")
        return False
    return True


async def clear_replacement(clear: ClearRelease, replica: ReplicaProcess) -> str | None:
    """Return None if another replica of the release may start, or the reason why none may if its weights are retired.

    Raises `GateError` if the release has lost its approval for another reason; then the replica continues.
    """
    try:
        await asyncio.to_thread(clear, replica.release, replica.terms, record=False)
    except RetiredModelError as error:
        return f"{replica.name} stops without a replacement: {error}"
    except GateError as error:
        hint = f"`vita fleet drain {replica.name} --stop` stops it without a replacement"
        raise GateError(f"replica {replica.name}", f"is not replaced and continues: {error}", hint=hint) from None
    return None

"""What tests of operations share: who acts, what is refused, what the audit then holds. Tests nothing."""

import pickle
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from services import operations
from services.access import Principal
from services.errors import Refusal

BY = Principal("0123456789ab", "alpha", "admin")


def refused(status, act, *arguments, **options):
    with pytest.raises(Refusal) as caught:
        act(*arguments, **options)
    assert caught.value.status == status, caught.value
    assert pickle.loads(pickle.dumps(caught.value)).message == caught.value.message
    return caught.value.message


def acts(service, project="alpha"):
    """Action, target and key of a project's audit rows, oldest first."""
    found = operations.audit_of(service, project, limit=1000).rows
    return [(row.action, row.target, row.key_id) for row in reversed(found)]


def expire(world, kind, row_id):
    past = datetime.now(UTC) - timedelta(seconds=1)
    world.service.database.run(
        lambda session: session.execute(update(kind).where(kind.id == row_id).values(expires_at=past))
    )

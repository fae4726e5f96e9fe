"""The model, the store and the local run of the fault tests."""

from tests.faults.conftest import local, model, redis

__all__ = ["local", "model", "redis"]

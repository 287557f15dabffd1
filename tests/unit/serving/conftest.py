from tests.unit.serving.exported import exported, other

__all__ = ["exported", "other"]

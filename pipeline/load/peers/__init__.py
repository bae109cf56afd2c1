"""What Sluice is measured against: each peer is one hand-written program, run as a module in its own process."""

__all__: list[str] = []

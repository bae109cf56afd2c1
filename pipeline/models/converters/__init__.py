"""Programs run by the interpreter that has a framework, which need not have Sluice: they import nothing of it."""

__all__: list[str] = []

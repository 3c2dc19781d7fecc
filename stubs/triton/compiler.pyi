from collections.abc import Mapping

class ASTSource:
    def __init__(
        self, fn: object, signature: Mapping[str, str], constexprs: Mapping[tuple[int, ...], object]
    ) -> None: ...

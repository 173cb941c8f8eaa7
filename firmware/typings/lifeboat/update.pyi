"""Going back to a build of which a copy is here."""

from lifeboat import Board

def rollback(board: Board, wanted: str | None = None) -> None: ...

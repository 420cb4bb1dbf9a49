"""Text of one's own: a file (its last part is held out) or a folder of files (split by file)."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from precisionlaws.config import ConfigError
from precisionlaws.data.base import Data, held_out

HELD_OUT = 0.1


@dataclass(frozen=True, kw_only=True)
class Text(Data):
    """Byte-level tokens of `path`. A single file is cut: what follows the first 90% is validation, more
    where `eval_tokens` needs more."""

    SHORT: ClassVar[str] = "text"
    path: str

    def rules(self) -> None:
        super().rules()
        if not self.path:
            raise ConfigError("path must name a file or a folder, got an empty text")

    def origin(self) -> str:
        return f"data.path={self.path}"

    def documents(self) -> tuple[list[bytes], list[bytes]]:
        path = Path(self.path).expanduser()
        try:
            if path.is_dir():
                return self.split(path)
            text = path.read_bytes()
        except OSError as error:
            raise ConfigError(f"data.path={self.path} cannot be read: {error.strerror}") from None
        held = max(int(len(text) * HELD_OUT), min(self.eval_tokens + 1, len(text) // 2))
        return [text[: len(text) - held]], [text[len(text) - held :]]

    def split(self, folder: Path) -> tuple[list[bytes], list[bytes]]:
        train, validation = [], []
        files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
        for name, path in sorted(files.items()):
            (validation if held_out(name, HELD_OUT) else train).append(path.read_bytes())
        return train, validation

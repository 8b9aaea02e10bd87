"""What an operator sets; read from options and environment by the command line, never at import."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, field_validator


class Settings(BaseModel):
    """Settings of one service process."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    data: Path = Path("feature-store")
    """Folder of the embedded database and of stores without an address of their own."""
    database_url: str | None = None
    """SQLAlchemy's address, such as postgresql+psycopg://USER@HOST/NAME; by default SQLite in `data`. The password comes from
    PGPASSWORD or ~/.pgpass, or stands in the address, which is then never printed."""
    reconcile_s: float = Field(default=300.0, ge=0)
    """Between two looks at the whole of each store; 0 never looks."""
    max_object_bytes: int = Field(default=512 * 2**20, ge=2**10)
    """Of one published object."""
    cache_bytes: int = Field(default=512 * 2**20, ge=0)
    """Of checked objects that are held in memory."""
    sign_s: int = Field(default=300, ge=1, le=300)
    """How long a signed address is good for."""
    public_url: str | None = None
    """How clients reach the service, where a proxy stands before it; decides whether cookies are for HTTPS alone."""
    key_cache_s: float = Field(default=5.0, ge=0, le=60)
    """How long a key is taken for good without asking the database again: a revoked key works so much longer on other replicas."""

    @field_validator("database_url")
    @classmethod
    def _check_database(cls, url: str | None) -> str | None:
        if url is None or url.startswith(("sqlite://", "postgresql+psycopg://")):
            return url
        if url.startswith(("postgresql://", "postgres://")):
            return "postgresql+psycopg://" + url.partition("://")[2]
        raise ValueError("expected postgresql://USER@HOST/NAME or sqlite:///PATH")

    @property
    def database(self) -> str:
        """Address of the database."""
        return self.database_url or f"sqlite:///{quote(str((self.data / 'service.db').absolute()))}"

    def store_url(self, project: str) -> str:
        """Where the store of a project lies by default."""
        return str((self.data / "stores" / project).absolute())

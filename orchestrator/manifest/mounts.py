"""Mounts, and the secrets and configs that are mounted as files.

In: YAML data. Out: read values. `schema` puts them together; `contents` reads the files.
"""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field, model_validator

from orchestrator.manifest import fields as f
from orchestrator.manifest.codes import Code
from orchestrator.manifest.fields import refuse
from orchestrator.manifest.part import Part, exactly_one, required_one
from orchestrator.manifest.scalars import describe


class OnChange(Part):
    """How new content reaches what runs: restart, replace, none, or a signal to the process."""

    kind = "on_change"
    forms = ({"enum": ["restart", "replace", "none"]}, f.VARIABLE)
    hidden = frozenset({"word"})
    word: str | None = Field(None, description="The short form: restart, replace or none.")
    signal: f.Signal | None = Field(
        None,
        description="The file is written in place, then the container's process gets this signal.",
        examples=["HUP"],
    )

    @classmethod
    def short(cls, data: Any) -> Any:
        if not isinstance(data, str):
            return data
        if data in ("restart", "replace", "none"):
            return {"word": data}
        hint = "did you mean {signal: HUP}?" if data in ("reload", "signal", "HUP", "SIGHUP") else None
        raise refuse(
            Code.VALUE, f"expects restart, replace, none or {{signal: NAME}}, found {describe(data)}", hint
        )

    @model_validator(mode="after")
    def _one(self) -> OnChange:
        if self.word is None and self.signal is None:
            raise refuse(Code.MISSING_KEY, "needs signal", "write {signal: HUP}")
        return self


_CONTENT_SIZE = "Its content is at most 1MiB."


class Secret(Part):
    """A file whose content is shown and kept nowhere: containers get it in memory."""

    kind = "secret"
    file: f.HostPath = Field(
        description=f"The file, relative to this one; read again at each start of a container. {_CONTENT_SIZE}",
        examples=["./secrets/db-password"],
    )
    on_change: OnChange = Field(
        OnChange.model_validate("restart"),
        description="What new content does to running containers; restart by default.",
        examples=[{"signal": "HUP"}, "replace", "none"],
    )


class Config(Part):
    """A file for containers: exactly one of file and content."""

    kind = "config"
    model_config = ConfigDict(json_schema_extra=required_one("file", "content"))
    file: f.HostPath | None = Field(
        None, description=f"The file, relative to this one. {_CONTENT_SIZE}", examples=["./site.conf"]
    )
    content: f.AnyText | None = Field(None, description=f"The content, written here. {_CONTENT_SIZE}")
    on_change: OnChange = Field(
        OnChange.model_validate("restart"),
        description="What new content does to running containers; restart by default.",
        examples=[{"signal": "HUP"}, "replace", "none"],
    )

    @model_validator(mode="after")
    def _one(self) -> Config:
        exactly_one(self, "file", "content")
        return self


_MOUNTED = ("volume", "bind", "tmpfs", "secret", "config")


class Mount(Part):
    """Something mounted into a container: exactly one of volume, bind, tmpfs, secret and config."""

    kind = "mount"
    model_config = ConfigDict(json_schema_extra=required_one(*_MOUNTED))
    volume: f.Name | None = Field(None, description="A volume of this stack.")
    bind: f.HostPath | None = Field(None, description="A file or folder of the host, relative to this file.")
    tmpfs: f.TmpfsSize | None = Field(
        None, description="Scratch space in memory of this size.", examples=["64MiB"]
    )
    secret: f.Name | None = Field(None, description="A secret of this stack, as a file in memory.")
    config: f.Name | None = Field(None, description="A config of this stack, as a file in memory.")
    target: f.InnerPath = Field(description="The absolute path inside the container.")
    copy_: f.Flag = Field(
        True,
        alias="copy",
        description="A new volume takes content, owner and mode of the folder that it is first mounted over.",
    )
    read_only: f.Flag = Field(
        False, description="The container cannot write to it. Secrets and configs always are."
    )
    owner: f.User | None = Field(
        None,
        description="Who owns the file of a secret or config, looked up in the rootfs; the container's user by default.",
        examples=["postgres", "1000:1000"],
    )
    mode: f.Mode | None = Field(
        None,
        description='The mode in octal; "0400" by default for a secret, "0444" for a config; one with x can be run.',
        examples=["0440"],
    )

    @classmethod
    def short(cls, data: Any) -> Any:
        if isinstance(data, str):
            source, _, target = data.partition(":")
            key = "bind" if source.startswith((".", "/")) else "volume"
            hint = (
                f"did you mean {{{key}: {source}, target: {target.partition(':')[0]}}}?" if target else None
            )
            raise refuse(
                Code.TYPE,
                f"expects a mapping such as {{volume: NAME, target: PATH}}, found {describe(data)}",
                hint,
            )
        return data

    @model_validator(mode="after")
    def _one(self) -> Mount:
        exactly_one(self, *_MOUNTED)
        file = self.secret is not None or self.config is not None
        for key in ("owner", "mode"):
            if key in self.model_fields_set and not file:
                raise refuse(Code.COMBINATION, f"takes {key} only beside secret or config")
        if self.volume is None and "copy_" in self.model_fields_set:
            raise refuse(Code.COMBINATION, "takes copy only beside volume")
        if file and "read_only" in self.model_fields_set and not self.read_only:
            raise refuse(
                Code.COMBINATION, "is a secret or config, which is always read-only", "remove read_only"
            )
        return self

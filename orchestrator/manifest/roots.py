"""Where containers' roots come from, as users write it: host, directory, archive, image or Debian recipe.

In: YAML data. Out: read values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field, WithJsonSchema, model_validator

from orchestrator.manifest import fields as f
from orchestrator.manifest.codes import Code
from orchestrator.manifest.fields import refuse
from orchestrator.manifest.part import Part, exactly_one, required_one
from orchestrator.manifest.scalars import describe

Forms = tuple[Mapping[str, Any], ...]
_ORIGINS = ("directory", "archive", "image", "debian")
_ONE_OR_LIST = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
_BESIDE = {
    "archive": ("sha256",),
    "image": ("pull",),
    "debian": ("packages", "files", "run", "variant"),
}


class RecipeFile(Part):
    """A file that a recipe puts into the root: the path of one beside the manifest, or its content."""

    kind = "recipe file"
    forms = ({"type": "string", "minLength": 1},)
    model_config = ConfigDict(json_schema_extra=required_one("file", "content"))
    file: f.HostPath | None = Field(None, description="The file to copy, relative to this one.")
    content: f.AnyText | None = Field(None, description="What it holds.")
    mode: f.Mode = Field(0o644, description="Its permissions, in octal.", examples=["0755"])
    owner: f.User = Field("root", description="Its owner, with a group after a colon.")

    @classmethod
    def short(cls, data: Any) -> Any:
        return {"file": data} if isinstance(data, str) else data

    @model_validator(mode="after")
    def _one(self) -> RecipeFile:
        exactly_one(self, "file", "content")
        return self


class Rootfs(Part):
    """Where a container's / comes from: the word `host`, a directory, an archive, an image or a Debian recipe."""

    kind = "rootfs"
    forms: ClassVar[Forms] = ({"const": "host"}, f.VARIABLE)
    model_config = ConfigDict(
        json_schema_extra={
            **required_one(*_ORIGINS),
            "dependentRequired": {key: [owner] for owner, keys in _BESIDE.items() for key in keys},
        }
    )
    hidden = frozenset({"host", "name"})
    host: bool = Field(False, description="The short form `host`.")
    name: str | None = Field(None, description="The short form of a container: a name.")
    directory: f.HostPath | None = Field(
        None,
        description="A folder, relative to this file. It is not written to: each container has its own layer over it.",
    )
    archive: f.HostPath | None = Field(
        None, description="A tar file (plain, gzip, bzip2, xz or zstd), relative to this file."
    )
    sha256: f.Sha256 | None = Field(
        None, description="The archive's SHA-256 in hexadecimal; it is checked before use."
    )
    image: f.Image | None = Field(
        None,
        description="An OCI image: of a registry, or oci:DIR[:TAG], oci-archive:FILE, docker-archive:FILE.",
        examples=["registry.example:5000/shop/app:1.4", "oci-archive:./app.tar"],
    )
    pull: f.Pull = Field(
        "missing",
        description="When the registry is asked what the tag names: always, missing (the first time) or never.",
    )
    debian: f.Suite | None = Field(
        None,
        description="A release of Debian: the root is built once, by mmdebstrap, from its packages.",
        examples=["bookworm"],
    )
    packages: Annotated[tuple[f.Package, ...], f.ONE_OR_LIST, WithJsonSchema(_ONE_OR_LIST)] = Field(
        (), description="Packages to install, NAME or NAME=VERSION.", examples=[["nginx", "curl"]]
    )
    files: dict[f.InnerPath, RecipeFile] = Field(
        default_factory=dict,
        description="Files to put in, by their path inside, once the packages are installed.",
        examples=[{"/etc/nginx/nginx.conf": "./nginx.conf"}],
    )
    run: Annotated[tuple[f.Text, ...], f.ONE_OR_LIST, WithJsonSchema(_ONE_OR_LIST)] = Field(
        (), description="Lines for /bin/sh, run inside at last.", examples=[["mkdir -p /srv/app"]]
    )
    variant: f.Variant = Field(
        "essential", description="What is there besides the packages: essential, apt, minbase or standard."
    )

    @classmethod
    def short(cls, data: Any) -> Any:
        if isinstance(data, str):
            if data == "host":
                return {"host": True}
            raise refuse(
                Code.VALUE,
                f"expects host or a mapping with one of {', '.join(_ORIGINS)}, found {describe(data)}",
                f"did you mean {{directory: {data}}}?" if data.startswith(("/", "./", "../")) else None,
            )
        return data

    @model_validator(mode="after")
    def _one(self) -> Rootfs:
        if not self.host and self.name is None:
            exactly_one(self, *_ORIGINS)
        for owner, keys in _BESIDE.items():
            for key in keys:
                if key in self.model_fields_set and owner not in self.model_fields_set:
                    raise refuse(Code.COMBINATION, f"takes {key} only beside {owner}")
        return self


class RootfsHere(Rootfs):
    """A container's rootfs: the name of one of the stack, `host`, or one that is written here."""

    forms: ClassVar[Forms] = ({"type": "string", "minLength": 1},)

    @classmethod
    def short(cls, data: Any) -> Any:
        if not isinstance(data, str):
            return data
        if not data:
            raise refuse(
                Code.VALUE, "expects the name of a rootfs, found an empty text", "write rootfs: host"
            )
        return {"name": str(data)}

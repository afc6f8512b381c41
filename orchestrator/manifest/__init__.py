"""What users write: strict YAML, variables, the schema of the language, and all that is wrong with it at once."""

from orchestrator.manifest.codes import MEANINGS, Code
from orchestrator.manifest.envfile import read_env
from orchestrator.manifest.load import Loaded, Manifest, Sources, load

__all__ = ["MEANINGS", "Code", "Loaded", "Manifest", "Sources", "load", "read_env"]

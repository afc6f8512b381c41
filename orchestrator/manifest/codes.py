"""The stable codes of all messages about what the user wrote, each with its one-line meaning.

Out: `Code`, whose members are strings (`ORC112`), and `MEANINGS` for documentation. A code is never given a second meaning.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Code(StrEnum):
    """0xx: text and YAML; 02x: variables; 03x: keys and values; 1xx: what the stack means;
    3xx: the graph; 4xx: this host."""

    UNREADABLE = "ORC001"
    ENCODING = "ORC002"
    SYNTAX = "ORC003"
    TOO_LARGE = "ORC004"
    TAG = "ORC005"
    DUPLICATE_KEY = "ORC006"
    SURPRISE = "ORC007"
    EMPTY = "ORC008"
    KEY_FORM = "ORC009"
    ALIAS = "ORC010"

    UNSET = "ORC020"
    INTERPOLATION = "ORC021"
    REQUIRED = "ORC022"
    ENV_FILE = "ORC023"
    ENV_FILE_MISSING = "ORC024"
    CONTENT = "ORC025"

    UNKNOWN_KEY = "ORC030"
    NOT_YET = "ORC031"
    COMPOSE_KEY = "ORC032"
    MISSING_KEY = "ORC033"
    TYPE = "ORC034"
    VALUE = "ORC035"
    COMBINATION = "ORC036"
    NAME = "ORC037"
    DECLARED_TWICE = "ORC038"
    NOTHING_TO_RUN = "ORC039"

    NAME_TAKEN = "ORC101"
    INSTANCE_NAME = "ORC102"
    UNKNOWN_ROOTFS = "ORC110"
    UNKNOWN_DEPENDENCY = "ORC111"
    UNKNOWN_NETWORK = "ORC112"
    UNKNOWN_VOLUME = "ORC113"
    SELF_DEPENDENCY = "ORC114"
    NO_HEALTH = "ORC115"
    NOT_A_JOB = "ORC116"
    UNKNOWN_SECRET = "ORC117"
    UNKNOWN_CONFIG = "ORC118"
    EXTERNAL = "ORC119"
    PORT_TAKEN = "ORC120"
    PUBLISH_WITHOUT_NETWORK = "ORC121"
    SUBNET = "ORC122"
    SUBNET_FULL = "ORC123"
    MOUNT_TARGET = "ORC130"
    MOUNT_TWICE = "ORC131"
    MOUNT_BELOW_FILE = "ORC132"
    LIMIT = "ORC140"
    LIMIT_ABOVE_PARENT = "ORC141"
    JOB = "ORC150"

    CYCLE = "ORC301"  # `graph`
    HOST = "ORC401"  # the drivers' check
    ROOT = "ORC402"
    LOCK = "ORC403"


MEANINGS: Mapping[Code, str] = {
    Code.UNREADABLE: "a file or folder cannot be read",
    Code.ENCODING: "a file is not UTF-8 text, or holds control characters",
    Code.SYNTAX: "a file is not valid YAML",
    Code.TOO_LARGE: "a file is larger, deeper or expands further than is allowed",
    Code.TAG: "a YAML tag was used",
    Code.DUPLICATE_KEY: "a key occurs twice in one mapping",
    Code.SURPRISE: "a bare word or number that YAML readers understand differently",
    Code.EMPTY: "a file or a key holds nothing",
    Code.KEY_FORM: "a key is not a plain word",
    Code.ALIAS: "an alias or merge key cannot be followed",
    Code.UNSET: "a variable is not set",
    Code.INTERPOLATION: "a ${...} cannot be read",
    Code.REQUIRED: "a variable that the file demands is not set",
    Code.ENV_FILE: "a line of an env file is not KEY=VALUE",
    Code.ENV_FILE_MISSING: "an env file cannot be read",
    Code.CONTENT: "the file of a secret or config cannot be read, or is too large",
    Code.UNKNOWN_KEY: "a key is not known here",
    Code.NOT_YET: "a key or form of the language that is not built yet",
    Code.COMPOSE_KEY: "a key of Docker Compose that has another name here",
    Code.MISSING_KEY: "a required key is missing",
    Code.TYPE: "a value has the wrong type",
    Code.VALUE: "a value cannot be read or is out of range",
    Code.COMBINATION: "keys that exclude each other, or none of several of which one is needed",
    Code.NAME: "a name has a wrong form",
    Code.DECLARED_TWICE: "two files declare the same thing",
    Code.NOTHING_TO_RUN: "a stack without containers and groups",
    Code.NAME_TAKEN: "a group and a container have the same name",
    Code.INSTANCE_NAME: "a name equals the name of another group's instance",
    Code.UNKNOWN_ROOTFS: "a rootfs is not declared",
    Code.UNKNOWN_DEPENDENCY: "a dependency is not declared",
    Code.UNKNOWN_NETWORK: "a network is not declared",
    Code.UNKNOWN_VOLUME: "a volume is not declared",
    Code.SELF_DEPENDENCY: "something depends on itself",
    Code.NO_HEALTH: "`healthy` is asked of something without a health check",
    Code.NOT_A_JOB: "`completed` is asked of something that is not a job",
    Code.UNKNOWN_SECRET: "a secret is not declared",
    Code.UNKNOWN_CONFIG: "a config is not declared",
    Code.EXTERNAL: "something external is the stack's own, or is named twice",
    Code.PORT_TAKEN: "two published ports overlap",
    Code.PUBLISH_WITHOUT_NETWORK: "ports are published of a group without networks",
    Code.SUBNET: "a subnet is malformed or overlaps another one",
    Code.SUBNET_FULL: "a subnet is too small for its members",
    Code.MOUNT_TARGET: "something cannot be mounted there",
    Code.MOUNT_TWICE: "two mounts have the same target",
    Code.MOUNT_BELOW_FILE: "something is mounted below a secret or config, which is a file",
    Code.LIMIT: "limits contradict each other",
    Code.LIMIT_ABOVE_PARENT: "a limit lies above that of its group or stack",
    Code.JOB: "a key that makes no sense for a job",
    Code.CYCLE: "dependencies form a cycle",
    Code.HOST: "this host cannot do what is asked",
    Code.ROOT: "an image, recipe or archive cannot be had",
    Code.LOCK: "the lock file lacks a root, or is of another one",
}

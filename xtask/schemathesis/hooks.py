"""What schemathesis has to know of this API: how values look, and checks that it lacks."""

import base64
import json
import re
from urllib.parse import parse_qsl, urlsplit

import jsonschema_rs
import schemathesis
from hypothesis import strategies as st
from schemathesis.specs.openapi import checks

BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def base58(data):
    number, text = int.from_bytes(data, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        text = BASE58[digit] + text
    return "1" * (len(data) - len(data.lstrip(b"\0"))) + text


def cid(digest, version):
    multihash = b"\x12\x20" + digest
    if version == 0:
        return base58(multihash)
    return "b" + base64.b32encode(b"\x01\x55" + multihash).decode().lower().rstrip("=")


def peer(digest):
    return base58(b"\x00\x24\x08\x01\x12\x20" + digest)


# Few, so that what one request makes another finds; and now and then one that nobody knows.
digests = st.integers(0, 7).map(lambda number: bytes([number]) * 32) | st.binary(min_size=32, max_size=32)
cids = st.builds(cid, digests, st.sampled_from([0, 1]))
peers = st.builds(peer, digests)
segments = st.text("abc.-_ %ü", min_size=1, max_size=8).filter(lambda text: text not in (".", ".."))
schemathesis.openapi.format("cid", cids)
schemathesis.openapi.format("peer-id", peers)
schemathesis.openapi.format(
    "multiaddr",
    st.builds(lambda port, peer: f"/ip4/127.0.0.1/tcp/{port}/p2p/{peer}", st.integers(0, 65535), peers),
)
schemathesis.openapi.format(
    "ipfs-path", st.builds(lambda cid, rest: "/".join([cid, *rest]), cids, st.lists(segments, max_size=3))
)
schemathesis.openapi.format(
    "go-duration",
    st.builds(lambda number, unit: f"{number}{unit}", st.integers(1, 10_000), st.sampled_from(["s", "m", "h"])),
)
KEY_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"
schemathesis.openapi.format("resume-key", st.text(KEY_LETTERS, min_size=1, max_size=64))
# One that means something comes with an answer.
schemathesis.openapi.format("cursor", st.text("abcdefghij", min_size=1, max_size=40))

# What the reference answers with 500 although the request is to blame: the checks of its core, and what an IPFS daemon
# or another peer refuses.
REFUSED = re.compile(
    r"cluster\.replication_factor_(min|max) "
    r"|not enough peers to allocate CID"
    r"|pin\.ExpireAt set before current time"
    r"|cannot repin "
    r"|cannot unpin "
    r"|crdt consensus component cannot remove peers"
    r"|hash function name not known"
    r"|unrecognized chunker option: "
    r"|bad CID Version: "
    r"|missing file path or URL, "
    r"|block doesn't fit in empty shard"
    r"|failed to put block on all destinations"
    r"|IPFS error \("
    r"|cannot reach "
)


@schemathesis.check
def server_errors_are_the_references(ctx, response, case):
    """A 5xx is described; a 500 is one of those that the reference gives too."""
    status = response.status_code
    if status < 500:
        return
    described = case.operation.definition.raw["responses"]
    message = response.json()["message"]
    assert str(status) in described, f"{status} is not described: {message}"
    # What is said of a CAR file that is none has as many forms as there are mistakes.
    of_car = case.operation.path == "/add" and (case.query or {}).get("format") == "car"
    assert status != 500 or of_car or REFUSED.match(message), f"a 500 that is none of the reference's: {message}"


@schemathesis.check
def errors_are_one_document(ctx, response, case):
    """An error is one JSON document whose code is the status."""
    status = response.status_code
    # These are given before there is a handler.
    if status < 400 or status in (405, 431):
        return
    document = json.loads(response.content)
    assert document["code"] == status and document["message"], document


@schemathesis.check
def lines_are_as_described(ctx, response, case):
    """Each line of a stream has the schema of lines."""
    answer = case.operation.definition.raw["responses"].get(str(response.status_code), {})
    schema = answer.get("content", {}).get("application/json", {}).get("x-itemSchema")
    if schema is None:
        return
    # The status comes before what is added is looked at; then there is a trailer, which cannot be seen here.
    if case.operation.path == "/add" and not response.content:
        return
    root = dict(schema, components=case.operation.schema.raw_schema["components"])
    validator = jsonschema_rs.validator_for(root)
    assert response.content.endswith(b"\n")
    for line in response.content.splitlines():
        document = json.loads(line)
        # With stream-channels=false what was added is told at once.
        for item in document if isinstance(document, list) else [document]:
            validator.validate(item)


FINDING = {"limit", "name", "name-prefix", "meta-*", "created-after", "created-before", "peer", "sort", "order"}


@schemathesis.hook
def map_case(ctx, case):
    """Takes from good requests what would make a good one bad: most of them would be."""
    query = case.query
    if case.meta and case.meta.generation.mode.is_positive and query:
        query.pop("after", None)
        if FINDING & query.keys() or any(name.startswith("meta-") for name in query):
            query.pop("cids", None)
        # What goes on has broken off before, and only a CAR can.
        query.pop("offset", None)
        if query.get("format") != "car" or str(query.get("shard")).lower() == "true":
            query.pop("resume", None)
    return case


def from_base58(text):
    number = 0
    for letter in text:
        number = number * 58 + BASE58.index(letter)
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def is_cid(text):
    return re.fullmatch("b[a-z2-7]{58}", text) or is_sha256(text)


def is_sha256(text):
    return re.fullmatch(f"Qm[{BASE58}]{{44}}", text) and from_base58(text)[:2] == b"\x12\x20"


def is_peer(text):
    ed25519 = re.fullmatch(f"12D3KooW[{BASE58}]{{44}}", text) and from_base58(text)[:5] == b"\x24\x08\x01\x12\x20"
    return ed25519 or is_sha256(text)


# Values also come from elsewhere than from the formats above, and then have only the type that they should.
FORMATS = {
    "cid": is_cid,
    "pin-update": is_cid,
    "cids": is_cid,
    "path": lambda text: is_cid(text.split("/")[0]),
    "peer": is_peer,
    "peer_id": is_peer,
    "user-allocations": is_peer,
    "origins": lambda text: is_peer(text.rsplit("/")[-1]),
}


def has_formats(case):
    body = case.body if isinstance(case.body, dict) else {}
    for values in (case.path_parameters or {}, case.query or {}, body):
        for name in FORMATS.keys() & values.keys():
            value = values[name]
            texts = value if isinstance(value, list) else str(value).split(",")
            if not all(FORMATS[name](str(text)) for text in texts if text):
                return False
    return True


@schemathesis.check
def valid_data_is_accepted(ctx, response, case):
    """The check of schemathesis, but for what no schema can say: formats, and parameters that depend on each other."""
    query = case.query or {}
    # It has to come from the page before.
    if "after" in query or not has_formats(case):
        return
    # These exclude each other.
    if query.get("cids") and (FINDING & query.keys() or any(name.startswith("meta-") for name in query)):
        return
    # Only a CAR can go on where it broke off, and not in shards; only whole files are referred to where they lie.
    said = {name: str(value).lower() for name, value in query.items()}
    if case.operation.path == "/add" and (
        said.get("resume") and (said.get("format") != "car" or said.get("shard") == "true")
        or said.get("nocopy") == "true"
        and (said.get("format") == "car" or said.get("shard") == "true" or said.get("raw-leaves") == "false")
    ):
        return
    # Who comes with a password has no token that could be revoked, only all of them.
    if case.operation.path == "/token" and query.get("all") in (None, "", False, "false"):
        return
    # Longer than a head may be.
    if response.status_code == 431:
        return
    return checks.positive_data_acceptance(ctx, response, case)


@schemathesis.check
def invalid_data_is_refused(ctx, response, case):
    """The check of schemathesis, but for what is no mistake: unknown parameters, and empty values where they are allowed."""
    data = case.meta and case.meta.phase.data
    if response.status_code == 431 or data and is_no_mistake(response, case, data):
        return
    # Refused in a trailer.
    if case.operation.path == "/add" and not response.content:
        return
    return checks.negative_data_rejection(ctx, response, case)


def is_no_mistake(response, case, data):
    # Any bytes are a file.
    if case.operation.path == "/add" and getattr(data.parameter_location, "value", "") == "body":
        return True
    parameters = case.operation.definition.raw.get("parameters", [])
    empty = {parameter["name"] for parameter in parameters if parameter.get("allowEmptyValue")}
    # As it was sent. Of one that is there more than once the first counts, as in the reference.
    sent = dict(reversed(parse_qsl(urlsplit(response.request.url).query, keep_blank_values=True)))

    def is_none(parameter, pointer=""):
        # Names that do not begin so are unknown ones; and the header that schemathesis sets itself.
        if parameter == "meta-*" or "meta-*" in pointer or "Authorization" in pointer:
            return True
        # Of lists, empty items do not count.
        return parameter in empty and sent.get(parameter, "").strip(",") in ("", "true", "false")

    def is_file(mutation):
        at = getattr(mutation, "parameter_location", None)
        return case.operation.path == "/add" and getattr(at, "value", "") == "body"

    if data.mutations:
        return all(
            is_file(mutation) or is_none(mutation.parameter, mutation.schema_pointer) for mutation in data.mutations
        )
    return is_none(data.parameter)

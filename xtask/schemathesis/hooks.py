"""What schemathesis has to know of this API: how values look, and checks that it lacks."""

import base64
import json
import re

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
    r"|IPFS error \("
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
    assert status != 500 or REFUSED.match(message), f"a 500 that is none of the reference's: {message}"


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
    root = dict(schema, components=case.operation.schema.raw_schema["components"])
    validator = jsonschema_rs.validator_for(root)
    assert response.content.endswith(b"\n")
    for line in response.content.splitlines():
        validator.validate(json.loads(line))


FINDING = {"limit", "name", "name-prefix", "meta-*", "created-after", "created-before", "peer", "sort", "order"}


@schemathesis.check
def valid_data_is_accepted(ctx, response, case):
    """The check of schemathesis, but for what no schema can say of parameters that depend on each other."""
    query = case.query or {}
    # It has to come from the page before.
    if "after" in query:
        return
    # These exclude each other.
    if query.get("cids") and (FINDING & query.keys() or any(name.startswith("meta-") for name in query)):
        return
    # Longer than a head may be.
    if response.status_code == 431:
        return
    return checks.positive_data_acceptance(ctx, response, case)

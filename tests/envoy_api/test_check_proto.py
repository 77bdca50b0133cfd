"""authz/envoy_api/check.proto against Envoy's own types, as envoy_data_plane has them."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.service.auth import v3 as auth
from google.protobuf.struct_pb2 import Struct
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.envoy_api import check_pb2
from authz.envoy_api.check_pb2 import CheckRequest, CheckResponse
from support.corpus import CASES, FOLDER
from support.oracle import (
    ORACLE_WIRE_TYPES,
    WIRE_TYPES,
    AnyField,
    declared_fields,
    differences,
    is_map,
    metadata,
)

REPOSITORY = Path(__file__).parents[2]

FIELDS = [
    *declared_fields(CheckRequest.DESCRIPTOR, auth.CheckRequest, "CheckRequest"),
    *declared_fields(CheckResponse.DESCRIPTOR, auth.CheckResponse, "CheckResponse"),
]


# What is declared


@pytest.mark.parametrize(("where", "ours", "oracle"), FIELDS, ids=[field[0] for field in FIELDS])
def test_every_declared_field_has_envoys_number_wire_type_and_cardinality(
    where: str, ours: AnyField, oracle: type[core.HeaderValue]
) -> None:
    theirs = metadata(oracle, ours.name)
    assert ours.number == theirs.number
    if is_map(ours):
        assert theirs.proto_type == "map"
        key, value = theirs.map_meta
        entry = ours.message_type.fields_by_name
        assert WIRE_TYPES[entry["key"].type][1] == ORACLE_WIRE_TYPES[key.proto_type]
        assert WIRE_TYPES[entry["value"].type][1] == ORACLE_WIRE_TYPES[value.proto_type]
        return
    name, wire_type = WIRE_TYPES[ours.type]
    assert wire_type == ORACLE_WIRE_TYPES[theirs.proto_type]
    if name != theirs.proto_type:  # the one difference that check.proto allows itself
        assert (name, theirs.proto_type) in {("bytes", "string"), ("int32", "enum")}
    assert ours.is_repeated == theirs.repeated
    if ours.containing_oneof:
        assert ours.containing_oneof.name == theirs.group


def test_the_append_actions_have_envoys_numbers() -> None:
    ours = check_pb2.HeaderValueOption.HeaderAppendAction
    theirs = {action.name: action.value for action in core.HeaderValueOptionHeaderAppendAction}
    assert dict(ours.items()).items() <= theirs.items()


def test_the_committed_code_is_what_the_compiler_makes_of_the_proto(tmp_path: Path) -> None:
    """`make proto` would change nothing."""
    subprocess.run(
        [
            sys.executable, "-m", "grpc_tools.protoc", f"-I{REPOSITORY}",
            f"--python_out={tmp_path}", f"--pyi_out={tmp_path}",
            str(REPOSITORY / "authz/envoy_api/check.proto"),
        ],
        check=True,
        cwd=REPOSITORY,
    )  # fmt: skip
    for name in ("check_pb2.py", "check_pb2.pyi"):
        made = (tmp_path / "authz/envoy_api" / name).read_text()
        committed = (REPOSITORY / "authz/envoy_api" / name).read_text()
        assert made == committed, f"{name} is not what `make proto` writes"


# Requests that Envoy sent


def captured(name: str) -> bytes:
    return (FOLDER / f"{name}.bin").read_bytes()


def http_of(name: str) -> check_pb2.AttributeContext.HttpRequest:
    return CheckRequest.FromString(captured(name)).attributes.request.http


def test_the_corpus_is_complete() -> None:
    assert {path.stem for path in FOLDER.glob("*.bin")} == set(CASES), "run `make corpus`"


@pytest.mark.parametrize("name", CASES)
def test_a_captured_request_reads_as_the_oracle_reads_it(name: str) -> None:
    data = captured(name)
    assert differences(CheckRequest.FromString(data), auth.CheckRequest.parse(data)) == []


def test_a_plain_request_has_its_parts_where_we_look_for_them() -> None:
    request = CheckRequest.FromString(captured("get"))
    http = request.attributes.request.http
    assert (http.method, http.path, http.host) == (b"GET", b"/orders", b"app.example")
    assert http.headers["authorization"].startswith(b"Bearer eyJ")
    assert http.id
    assert request.attributes.source.address.socket_address.address == "127.0.0.1"


def test_envoy_joins_duplicates_by_a_comma_in_the_map() -> None:
    headers = http_of("duplicates").headers
    assert headers["authorization"].endswith(b",Bearer second")
    assert headers["x-tag"] == b"one,two"


def test_raw_headers_leave_the_map_empty_and_keep_duplicates() -> None:
    """All but `authorization`, which Envoy joins as it reads the request."""
    http = http_of("duplicates-raw")
    assert not http.headers
    tags = [header.raw_value for header in http.header_map.headers if header.key == "x-tag"]
    assert tags == [b"one", b"two"]
    (credential,) = [h for h in http.header_map.headers if h.key == "authorization"]
    assert credential.raw_value.endswith(b",Bearer second")
    assert not credential.value


def test_bytes_that_are_not_utf8_come_as_exclamation_marks_or_raw() -> None:
    assert http_of("not-utf8").headers["x-name"] == b"Ren!"
    raw = {header.key: header.raw_value for header in http_of("not-utf8-raw").header_map.headers}
    assert raw["x-name"] == b"Ren\xe9"


def test_context_extensions_are_read() -> None:
    extensions = CheckRequest.FromString(captured("context-extensions")).attributes
    assert extensions.context_extensions["authz.scopes"] == "admin read"


# Requests that nobody sent yet

text = st.text(max_size=40)
int32 = st.integers(-(2**31), 2**31 - 1)


def addresses() -> st.SearchStrategy[core.Address]:
    return st.builds(
        core.Address,
        socket_address=st.builds(
            core.SocketAddress, address=text, port_value=st.integers(0, 65535)
        ),
    ) | st.builds(core.Address, pipe=st.builds(core.Pipe, path=text))


def peers() -> st.SearchStrategy[auth.AttributeContextPeer]:
    return st.builds(
        auth.AttributeContextPeer,
        address=st.none() | addresses(),
        service=text,
        labels=st.dictionaries(text, text, max_size=2),
        principal=text,
        certificate=text,
    )


def header_maps() -> st.SearchStrategy[core.HeaderMap]:
    header = st.builds(core.HeaderValue, key=text, value=text, raw_value=st.binary(max_size=40))
    return st.builds(core.HeaderMap, headers=st.lists(header, max_size=5))


def check_requests() -> st.SearchStrategy[auth.CheckRequest]:
    """With every field of Envoy's HttpRequest, the many that we don't declare among them."""
    http = st.builds(
        auth.AttributeContextHttpRequest,
        id=text,
        method=text,
        headers=st.dictionaries(text, text, max_size=5),
        header_map=st.none() | header_maps(),
        path=text,
        host=text,
        scheme=text,
        query=text,
        fragment=text,
        size=st.integers(-(2**63), 2**63 - 1),
        protocol=text,
        body=text,
        raw_body=st.binary(max_size=40),
    )
    return st.builds(
        auth.CheckRequest,
        attributes=st.none()
        | st.builds(
            auth.AttributeContext,
            source=st.none() | peers(),
            destination=st.none() | peers(),
            request=st.none() | st.builds(auth.AttributeContextRequest, http=st.none() | http),
            context_extensions=st.dictionaries(text, text, max_size=3),
            metadata_context=st.none() | st.just(core.Metadata()),
            tls_session=st.none() | st.builds(auth.AttributeContextTlsSession, sni=text),
        ),
    )


@settings(deadline=None)
@given(check_requests())
def test_a_generated_request_reads_as_it_was_meant(request: auth.CheckRequest) -> None:
    data = bytes(request)
    ours = CheckRequest.FromString(data)
    assert differences(ours, auth.CheckRequest.parse(data)) == []


def unknown_fields() -> st.SearchStrategy[bytes]:
    """Fields with numbers that Envoy doesn't use, of every wire type that protobuf still has."""

    def encode(number: int, kind: int, payload: bytes) -> bytes:
        tag = varint(number << 3 | kind)
        match kind:
            case 0:
                return tag + varint(int.from_bytes(payload[:8], "big"))
            case 1:
                return tag + payload[:8].ljust(8, b"\0")
            case 5:
                return tag + payload[:4].ljust(4, b"\0")
            case _:
                return tag + varint(len(payload)) + payload

    return st.builds(
        encode,
        st.integers(100, 2**29 - 1).filter(lambda number: not 19_000 <= number < 20_000),
        st.sampled_from([0, 1, 2, 5]),
        st.binary(max_size=20),
    )


def varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


@settings(deadline=None)
@given(st.lists(unknown_fields(), max_size=4), st.sampled_from(sorted(CASES)))
def test_fields_of_a_later_envoy_are_skipped(fields: list[bytes], name: str) -> None:
    """At the top, and inside AttributeContext, which is merged when it comes twice."""
    data = captured(name)
    strange = b"".join(fields)
    nested = b"\x0a" + varint(len(strange)) + strange
    assert (
        differences(CheckRequest.FromString(strange + data + nested), auth.CheckRequest.parse(data))
        == []
    )


# Responses that we write

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)


def structs() -> st.SearchStrategy[Struct]:
    def build(value: dict[str, Any]) -> Struct:
        struct = Struct()
        struct.update(value)
        return struct

    return st.dictionaries(text, json_values, max_size=4).map(build)


def header_options() -> st.SearchStrategy[list[check_pb2.HeaderValueOption]]:
    option = st.builds(
        check_pb2.HeaderValueOption,
        header=st.builds(
            check_pb2.HeaderValue, key=text, value=text.map(str.encode), raw_value=st.binary()
        ),
        append_action=st.sampled_from(check_pb2.HeaderValueOption.HeaderAppendAction.values()),
    )
    return st.lists(option, max_size=4)


def check_responses() -> st.SearchStrategy[CheckResponse]:
    """Statuses are those that envoy.type.v3.StatusCode names."""
    denied = st.builds(
        check_pb2.DeniedHttpResponse,
        status=st.builds(
            check_pb2.HttpStatus, code=st.sampled_from([0, 200, 401, 403, 429, 500, 503])
        ),
        headers=header_options(),
        body=text,
    )
    ok = st.builds(
        check_pb2.OkHttpResponse,
        headers=header_options(),
        headers_to_remove=st.lists(text, max_size=3),
        response_headers_to_add=header_options(),
    )
    parts = {"status": st.builds(check_pb2.Status, code=int32), "dynamic_metadata": structs()}
    return (
        st.builds(CheckResponse, **parts)
        | st.builds(CheckResponse, **parts, denied_response=denied)
        | st.builds(CheckResponse, **parts, ok_response=ok)
    )


@settings(deadline=None)
@given(check_responses())
def test_envoy_reads_our_responses_as_we_meant_them(response: CheckResponse) -> None:
    oracle = auth.CheckResponse.parse(response.SerializeToString())
    assert differences(response, oracle) == []


def test_a_disagreement_would_be_found() -> None:
    """The comparison itself: one changed byte of a header shows."""
    data = captured("get")
    changed = data.replace(b"Bearer", b"bearer")
    (found,) = differences(CheckRequest.FromString(changed), auth.CheckRequest.parse(data))
    assert "headers['authorization']" in found

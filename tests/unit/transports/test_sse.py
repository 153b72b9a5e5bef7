"""The SSE encoder, read back with the strict parser."""

from __future__ import annotations

import json

import pytest

from hub.fanout.wire import Reason
from hub.job.event import Event, EventId
from hub.job.frame import Frame
from hub.transports.sse import HEARTBEAT, RAW_SSE, encode, reconnect
from tests.support.sse import Parser, parse
from tests.unit.job.test_event import ODD_TEXTS

ID = EventId(1_732_345_000_123, 7)


def frame(body: str, event_id: EventId | None = ID) -> Frame:
    return Frame(Event.from_body(event_id, body.encode()), event_id=event_id)


def lines(text: str) -> str:
    """The text as an event stream carries it: all line ends become the same one."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


@pytest.mark.parametrize(
    "body",
    [
        "{}",
        '{"type":"x"}',
        "",
        " ",
        "  leading",
        "a\nb",
        "a\rb",
        "a\r\nb",
        "\n",
        "\r",
        "\r\n",
        "\n\n",
        "\r\r\n\n",
        "a\n",
        "\na",
        "\0",
        "id: 1-1\nevent: end\ndata: forged",
        "data: x",
        ": comment",
        "\n\nevent: end\n\n",
        "\ufeffbom",
        "\u2028\u2029\x85\x0b\x0c",
        "日本語 👩‍👩‍👧",
        "x" * 100_000,
        *ODD_TEXTS,
    ],
    ids=repr,
)
def test_every_body_survives_and_forges_nothing(body):
    """Any body is one message with the hub's id and no name, and does not change the next message.

    A byte order mark in front of it is dropped.
    """
    one, after = parse(encode(frame(body)) + encode(frame("{}", ID.next)))
    assert (one.data, one.event, one.id) == (lines(body.removeprefix("\ufeff")), "message", str(ID))
    assert (after.data, after.event, after.id) == ("{}", "message", str(ID.next))


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_every_json_text_survives(text):
    """JSON bodies read back unchanged, pretty-printed or not."""
    for indent in (None, 2):
        body = json.dumps({"type": "x", "a": text, text: [text]}, ensure_ascii=False, indent=indent)
        (one,) = parse(encode(frame(body)))
        assert json.loads(one.data, strict=False) == {"type": "x", "a": text, text: [text]}


def test_data_events_have_no_event_field():
    """`EventSource.onmessage` gets only messages without an `event:` field (fixed by the protocol)."""
    assert encode(frame('{"type":"x"}')) == b'id: 1732345000123-7\ndata: {"type":"x"}\n\n'


def test_an_event_without_an_id_moves_no_cursor():
    """An event of a foreign producer in a job with a shared log has no id."""
    parser = Parser()
    parser.feed(encode(frame("{}")))
    (one,) = parser.feed(encode(frame('{"a":1}', None)))
    assert one.data == '{"a":1}'
    assert parser.last_event_id == str(ID)


@pytest.mark.parametrize("name", ["heartbeat", "gap", "resync", "state", "reconnect", "end"])
def test_control_frames_are_named_events_without_an_id(name):
    """A control frame leaves the browser's cursor where it was."""
    parser = Parser()
    parser.feed(encode(frame("{}")))
    (one,) = parser.feed(encode(Frame.control(name, {"a": "x\ny"})))
    assert (one.event, one.json) == (name, {"a": "x\ny"})
    assert parser.last_event_id == str(ID)


def test_a_state_frame_carries_the_cursor_it_stands_for():
    """A browser whose last frame is a `state` resumes after that state's position."""
    state = Frame(Event(None, '{"status":"code"}', {}), event_id=ID, name="state")
    (one,) = parse(encode(state))
    assert (one.event, one.id, one.json) == ("state", str(ID), {"status": "code"})


def test_the_heartbeat_is_as_fixed():
    """A heartbeat is `event: heartbeat` and `data: {}` without an id."""
    assert encode(HEARTBEAT) == b"event: heartbeat\ndata: {}\n\n"


def test_reconnect_comes_with_a_matching_retry():
    """`retry:` and `after_ms` have the same number."""
    parser = Parser()
    (one,) = parser.feed(reconnect(1234, Reason.RESTART))
    assert (one.event, one.json["after_ms"], parser.retry) == ("reconnect", 1234, 1234)
    assert one.json["reason"] == Reason.RESTART.words


def test_bytes_that_are_not_utf8_leave_as_utf8():
    """Bytes of a producer that are not UTF-8 are sent as U+FFFD."""
    event = Event.from_body(ID, b"\xff\xfe\x80")
    (one,) = parse(encode(Frame(event, event_id=ID)))
    assert one.data == "���"


def test_a_stream_can_be_cut_anywhere():
    """Read byte by byte, a stream gives the same messages."""
    stream = b"".join(encode(frame(body)) for body in ["a\r\nb", "日", "", '{"x":1}'])
    parser = Parser()
    cut = [message for index in range(len(stream)) for message in parser.feed(stream[index : index + 1])]
    assert cut == parse(stream)


def test_a_chunk_for_a_raw_socket_is_one_chunk():
    """RFC 9112, section 7.1: hex size, data, CRLF after both.

    No data gives no chunk, because an empty chunk ends the body.
    """
    parts = [encode(frame("a")), encode(frame("é"))]
    chunk = RAW_SSE.join(parts)
    size, _, rest = chunk.partition(b"\r\n")
    assert int(size, 16) == len(b"".join(parts))
    assert rest == b"".join(parts) + b"\r\n"
    assert RAW_SSE.join([]) == b""


def test_no_line_end_of_any_client_is_in_a_json_body():
    """`str.splitlines` ends lines at U+0085, U+2028 and U+2029 too. JSON reads back unchanged."""
    body = json.dumps({"type": "x", "a": "b\u2028c\u2029d\x85e\u00e9"}, ensure_ascii=False)
    encoded = encode(frame(body)).decode()
    assert encoded.splitlines() == encoded.split("\n")[:-1]
    (message,) = parse(encoded)
    assert message.json == json.loads(body)

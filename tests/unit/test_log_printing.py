"""How workers' lines look at the driver. No cluster."""

import pytest
from ray_rs import _logs


@pytest.fixture
def lines(monkeypatch):
    fresh = _logs._Deduplicator()
    monkeypatch.setattr(fresh, "_start_timer", lambda: None)
    monkeypatch.setattr(_logs, "_lines", fresh)
    monkeypatch.delenv("RAY_COLOR_PREFIX", raising=False)
    return fresh


def test_streams_and_prefix(lines, capsys):
    _logs.on_event("log", "f", 7, False, ["one", "two"])
    _logs.on_event("log", "f", 7, True, ["three"])
    out, err = capsys.readouterr()
    assert out == "(f pid=7) one\n(f pid=7) two\n"
    assert err == "(f pid=7) three\n"


def test_colour_on_demand(lines, capsys, monkeypatch):
    monkeypatch.setenv("RAY_COLOR_PREFIX", "1")
    _logs.on_event("log", "f", 7, False, ["one"])
    assert capsys.readouterr().out == "\033[36m(f pid=7)\033[0m one\n"


def test_what_several_processes_repeat_is_counted(lines, capsys):
    for pid in (1, 2, 3):
        _logs.on_event("log", "f", pid, False, [f"loaded model in {pid} s"])
    assert capsys.readouterr().out == "(f pid=1) loaded model in 1 s\n"
    _logs.flush()
    assert capsys.readouterr().out.startswith("(f pid=3) loaded model in 3 s [repeated 2x across cluster]")


def test_what_one_process_repeats_is_shown(lines, capsys):
    _logs.on_event("log", "f", 1, False, ["step"] * 3)
    assert capsys.readouterr().out == "(f pid=1) step\n" * 3


def test_lines_of_numbers_are_never_merged(lines, capsys):
    for pid in (1, 2):
        _logs.on_event("log", "f", pid, False, ["42"])
    assert capsys.readouterr().out.count("42") == 2


def test_a_pattern_is_new_again_after_a_while(lines, capsys):
    _logs.on_event("log", "f", 1, False, ["hello"])
    assert lines.expired(float("inf")) == []
    _logs.on_event("log", "f", 2, False, ["hello"])
    assert capsys.readouterr().out.count("hello") == 2


def test_a_closed_stream_is_no_error(lines, monkeypatch):
    class Closed:
        def write(self, text):
            raise ValueError("I/O operation on closed file")

    monkeypatch.setattr("sys.stdout", Closed())
    _logs.on_event("log", "f", 1, False, ["lost"])


def test_notices_and_messages(lines, capsys):
    _logs.on_event("notice", 1, "look out")
    _logs.info("started")
    err = capsys.readouterr().err
    assert "(raylet) look out\n" in err
    assert "INFO -- started\n" in err


def test_what_init_was_told_about_messages_ends_with_the_session(lines, capsys):
    _logs.configure(level="error", use_logging=False, show_workers=False)
    _logs.info("not said")
    _logs.forget()
    _logs.info("said")
    err = capsys.readouterr().err
    assert "-- said\n" in err and "not said" not in err
